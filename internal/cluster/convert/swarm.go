package convert

import (
	"maps"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/ca"
)

var roles = table[swarm.NodeRole, api.NodeRole]{
	{swarm.NodeRoleWorker, api.NodeRoleWorker},
	{swarm.NodeRoleManager, api.NodeRoleManager},
}

var availabilities = table[swarm.NodeAvailability, api.NodeSpec_Availability]{
	{swarm.NodeAvailabilityActive, api.NodeAvailabilityActive},
	{swarm.NodeAvailabilityPause, api.NodeAvailabilityPause},
	{swarm.NodeAvailabilityDrain, api.NodeAvailabilityDrain},
}

var nodeStates = table[swarm.NodeState, api.NodeStatus_State]{
	{swarm.NodeStateUnknown, api.NodeStatus_UNKNOWN},
	{swarm.NodeStateDown, api.NodeStatus_DOWN},
	{swarm.NodeStateReady, api.NodeStatus_READY},
	{swarm.NodeStateDisconnected, api.NodeStatus_DISCONNECTED},
}

var reachabilities = table[swarm.Reachability, api.RaftMemberStatus_Reachability]{
	{swarm.ReachabilityUnknown, api.RaftMemberStatus_UNKNOWN},
	{swarm.ReachabilityUnreachable, api.RaftMemberStatus_UNREACHABLE},
	{swarm.ReachabilityReachable, api.RaftMemberStatus_REACHABLE},
}

// Availability reads what a node asks for when it joins.
func Availability(a swarm.NodeAvailability) (api.NodeSpec_Availability, error) {
	return availabilities.toSwarmkit(a, "Availability")
}

// Role reads a role as filters name it.
func Role(r string) (api.NodeRole, error) { return roles.toSwarmkit(swarm.NodeRole(r), "role") }

// NodeFrom is a node as the API shows it.
func NodeFrom(n api.Node) swarm.Node {
	out := swarm.Node{
		ID:   n.ID,
		Meta: metaFrom(n.Meta),
		Spec: NodeSpecFrom(n.Spec),
		Status: swarm.NodeStatus{
			State: nodeStates.toDocker(n.Status.State), Message: n.Status.Message, Addr: n.Status.Addr,
		},
	}
	// What the node was asked to be may still be under way; what it is counts.
	out.Spec.Role = roles.toDocker(n.Spec.DesiredRole)
	if d := n.Description; d != nil {
		out.Description = descriptionFrom(d)
	}
	if m := n.ManagerStatus; m != nil {
		out.ManagerStatus = &swarm.ManagerStatus{
			Leader: m.Leader, Reachability: reachabilities.toDocker(m.Reachability), Addr: m.Addr,
		}
	}
	return out
}

func descriptionFrom(d *api.NodeDescription) swarm.NodeDescription {
	out := swarm.NodeDescription{Hostname: d.Hostname}
	if d.Platform != nil {
		out.Platform = swarm.Platform{Architecture: d.Platform.Architecture, OS: d.Platform.OS}
	}
	if d.Resources != nil {
		out.Resources = *resourcesFrom(d.Resources)
	}
	if d.Engine != nil {
		out.Engine = swarm.EngineDescription{
			EngineVersion: d.Engine.EngineVersion,
			Labels:        maps.Clone(d.Engine.Labels),
			Plugins: each(d.Engine.Plugins, func(p api.PluginDescription) swarm.PluginDescription {
				return swarm.PluginDescription{Type: p.Type, Name: p.Name}
			}),
		}
	}
	if t := d.TLSInfo; t != nil {
		out.TLSInfo = swarm.TLSInfo{
			TrustRoot: string(t.TrustRoot), CertIssuerSubject: t.CertIssuerSubject, CertIssuerPublicKey: t.CertIssuerPublicKey,
		}
	}
	return out
}

// NodeSpecFrom is what a node was asked to be.
func NodeSpecFrom(s api.NodeSpec) swarm.NodeSpec {
	return swarm.NodeSpec{
		Annotations:  annotationsFrom(s.Annotations),
		Role:         roles.toDocker(s.DesiredRole),
		Availability: availabilities.toDocker(s.Availability),
	}
}

// NodeSpecTo reads what a node shall be.
func NodeSpecTo(s swarm.NodeSpec) (api.NodeSpec, error) {
	out := api.NodeSpec{Annotations: annotationsTo(s.Annotations), Membership: api.NodeMembershipAccepted}
	if s.Role == "" {
		return out, invalid("invalid Role: %q", s.Role)
	}
	if s.Availability == "" {
		return out, invalid("invalid Availability: %q", s.Availability)
	}
	var err error
	if out.DesiredRole, err = roles.toSwarmkit(s.Role, "Role"); err != nil {
		return out, err
	}
	out.Availability, err = availabilities.toSwarmkit(s.Availability, "Availability")
	return out, err
}

// ClusterFrom is the whole cluster as the API shows it.
func ClusterFrom(c api.Cluster) swarm.Swarm {
	out := swarm.Swarm{
		ClusterInfo: swarm.ClusterInfo{
			ID:                     c.ID,
			Meta:                   metaFrom(c.Meta),
			Spec:                   ClusterSpecFrom(c.Spec),
			TLSInfo:                swarm.TLSInfo{TrustRoot: string(c.RootCA.CACert)},
			RootRotationInProgress: c.RootCA.RootRotation != nil,
			DefaultAddrPool:        prefixesFrom(c.DefaultAddressPool),
			SubnetSize:             c.SubnetSize,
			DataPathPort:           c.VXLANUDPPort,
		},
		JoinTokens: swarm.JoinTokens{Worker: c.RootCA.JoinTokens.Worker, Manager: c.RootCA.JoinTokens.Manager},
	}
	// Clients compare it with the nodes' own, to see which have the new certificate.
	if issuer, err := ca.IssuerFromAPIRootCA(&c.RootCA); err == nil {
		out.TLSInfo.CertIssuerSubject, out.TLSInfo.CertIssuerPublicKey = issuer.Subject, issuer.PublicKey
	}
	return out
}

// ClusterSpecFrom is the cluster's settings. The key of a CA stays inside.
func ClusterSpecFrom(s api.ClusterSpec) swarm.Spec {
	history := s.Orchestration.TaskHistoryRetentionLimit
	old := s.Raft.KeepOldSnapshots
	return swarm.Spec{
		Annotations:   annotationsFrom(s.Annotations),
		Orchestration: swarm.OrchestrationConfig{TaskHistoryRetentionLimit: &history},
		Raft: swarm.RaftConfig{
			SnapshotInterval:           s.Raft.SnapshotInterval,
			KeepOldSnapshots:           &old,
			LogEntriesForSlowFollowers: s.Raft.LogEntriesForSlowFollowers,
			HeartbeatTick:              int(s.Raft.HeartbeatTick),
			ElectionTick:               int(s.Raft.ElectionTick),
		},
		Dispatcher: swarm.DispatcherConfig{HeartbeatPeriod: durationFrom(s.Dispatcher.HeartbeatPeriod)},
		CAConfig: swarm.CAConfig{
			NodeCertExpiry: durationFrom(s.CAConfig.NodeCertExpiry),
			ExternalCAs: each(s.CAConfig.ExternalCAs, func(c *api.ExternalCA) *swarm.ExternalCA {
				return &swarm.ExternalCA{
					Protocol: swarm.ExternalCAProtocolCFSSL, URL: c.URL, Options: maps.Clone(c.Options), CACert: string(c.CACert),
				}
			}),
			SigningCACert: string(s.CAConfig.SigningCACert),
			ForceRotate:   s.CAConfig.ForceRotate,
		},
		TaskDefaults:     swarm.TaskDefaults{LogDriver: driverFrom(s.TaskDefaults.LogDriver)},
		EncryptionConfig: swarm.EncryptionConfig{AutoLockManagers: s.EncryptionConfig.AutoLockManagers},
	}
}

// ClusterSpecTo puts what a request sets over the settings so far.
func ClusterSpecTo(s swarm.Spec, base api.ClusterSpec) (api.ClusterSpec, error) {
	out := *base.Copy()
	if s.Labels != nil {
		out.Annotations.Labels = maps.Clone(s.Labels)
	}
	if s.Name != "" {
		out.Annotations.Name = s.Name
	}
	if l := s.Orchestration.TaskHistoryRetentionLimit; l != nil {
		out.Orchestration.TaskHistoryRetentionLimit = *l
	}
	if s.Raft.SnapshotInterval != 0 {
		out.Raft.SnapshotInterval = s.Raft.SnapshotInterval
	}
	if k := s.Raft.KeepOldSnapshots; k != nil {
		out.Raft.KeepOldSnapshots = *k
	}
	if s.Raft.LogEntriesForSlowFollowers != 0 {
		out.Raft.LogEntriesForSlowFollowers = s.Raft.LogEntriesForSlowFollowers
	}
	if t := s.Raft.ElectionTick; t > 0 {
		out.Raft.ElectionTick = uint32(t)
	}
	if t := s.Raft.HeartbeatTick; t > 0 {
		out.Raft.HeartbeatTick = uint32(t)
	}
	if s.Dispatcher.HeartbeatPeriod != 0 {
		out.Dispatcher.HeartbeatPeriod = durationTo(s.Dispatcher.HeartbeatPeriod)
	}
	if s.CAConfig.NodeCertExpiry != 0 {
		out.CAConfig.NodeCertExpiry = durationTo(s.CAConfig.NodeCertExpiry)
	}
	if s.CAConfig.SigningCACert != "" {
		out.CAConfig.SigningCACert = []byte(s.CAConfig.SigningCACert)
	}
	if s.CAConfig.SigningCAKey != "" {
		// The old key is not shown, so a request that leaves it empty means to keep it.
		out.CAConfig.SigningCAKey = []byte(s.CAConfig.SigningCAKey)
	}
	out.CAConfig.ForceRotate = s.CAConfig.ForceRotate
	cas, err := eachErr(s.CAConfig.ExternalCAs, func(c *swarm.ExternalCA) (*api.ExternalCA, error) {
		if c.Protocol != swarm.ExternalCAProtocolCFSSL {
			return nil, invalid("invalid CAProtocol: %q", c.Protocol)
		}
		return &api.ExternalCA{Protocol: api.ExternalCA_CAProtocolCFSSL, URL: c.URL, Options: maps.Clone(c.Options), CACert: []byte(c.CACert)}, nil
	})
	if err != nil {
		return out, err
	}
	out.CAConfig.ExternalCAs = cas
	if s.TaskDefaults.LogDriver != nil {
		out.TaskDefaults.LogDriver = driverTo(s.TaskDefaults.LogDriver)
	}
	out.EncryptionConfig.AutoLockManagers = s.EncryptionConfig.AutoLockManagers
	return out, nil
}
