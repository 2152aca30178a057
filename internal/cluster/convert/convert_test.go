package convert

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"
)

func ptr[T any](v T) *T { return &v }

// full is a service with every field set that a service can have.
func full() swarm.ServiceSpec {
	return swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: "db", Labels: map[string]string{"a": "b"}},
		Mode:        swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: ptr(uint64(3))}},
		UpdateConfig: &swarm.UpdateConfig{
			Parallelism: 2, Delay: time.Second, FailureAction: swarm.UpdateFailureActionRollback, Monitor: time.Minute, MaxFailureRatio: 0.5,
			Order: swarm.UpdateOrderStartFirst,
		},
		RollbackConfig: &swarm.UpdateConfig{
			Parallelism: 1, Delay: 2 * time.Second, FailureAction: swarm.UpdateFailureActionContinue, Monitor: time.Hour, MaxFailureRatio: 0.25,
			Order: swarm.UpdateOrderStopFirst,
		},
		EndpointSpec: &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR, Ports: []swarm.PortConfig{
			{Name: "sql", Protocol: network.UDP, TargetPort: 5432, PublishedPort: 15432, PublishMode: swarm.PortConfigPublishModeHost},
		}},
		TaskTemplate: swarm.TaskSpec{
			Runtime:     swarm.RuntimeContainer,
			ForceUpdate: 7,
			LogDriver:   &swarm.Driver{Name: "local", Options: map[string]string{"max-size": "1m"}},
			Networks:    []swarm.NetworkAttachmentConfig{{Target: "net", Aliases: []string{"x"}, DriverOpts: map[string]string{"o": "p"}}},
			Resources: &swarm.ResourceRequirements{
				Limits: &swarm.Limit{NanoCPUs: 1, MemoryBytes: 2, Pids: 3},
				Reservations: &swarm.Resources{NanoCPUs: 4, MemoryBytes: 5, GenericResources: []swarm.GenericResource{
					{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "gpu", Value: "one"}},
					{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "ssd", Value: 2}},
				}},
				SwapBytes: ptr(int64(6)), MemorySwappiness: ptr(int64(7)),
			},
			RestartPolicy: &swarm.RestartPolicy{
				Condition: swarm.RestartPolicyConditionOnFailure, Delay: ptr(time.Second), MaxAttempts: ptr(uint64(2)), Window: ptr(time.Minute),
			},
			Placement: &swarm.Placement{
				Constraints: []string{"node.labels.postgres==master"}, MaxReplicas: 2,
				Preferences: []swarm.PlacementPreference{{Spread: &swarm.SpreadOver{SpreadDescriptor: "node.labels.zone"}}},
				Platforms:   []swarm.Platform{{Architecture: "amd64", OS: "linux"}},
			},
			ContainerSpec: &swarm.ContainerSpec{
				Image: "busybox", Labels: map[string]string{"c": "d"}, Command: []string{"sh"}, Args: []string{"-c", "true"},
				Hostname: "h-{{.Task.Slot}}", Env: []string{"A=b"}, Dir: "/d", User: "1:2", Groups: []string{"3"},
				Privileges: &swarm.Privileges{
					CredentialSpec:  &swarm.CredentialSpec{File: "f"},
					SELinuxContext:  &swarm.SELinuxContext{Disable: true, User: "u", Role: "r", Type: "t", Level: "l"},
					Seccomp:         &swarm.SeccompOpts{Mode: swarm.SeccompModeCustom, Profile: []byte("{}")},
					AppArmor:        &swarm.AppArmorOpts{Mode: swarm.AppArmorModeDisabled},
					NoNewPrivileges: true,
				},
				Init: ptr(true), StopSignal: "SIGINT", TTY: true, OpenStdin: true, ReadOnly: true,
				Mounts: []mount.Mount{
					{Type: mount.TypeVolume, Source: "v-{{.Task.Slot}}", Target: "/v", ReadOnly: true, Consistency: mount.ConsistencyCached, VolumeOptions: &mount.VolumeOptions{
						NoCopy: true, Labels: map[string]string{"e": "f"}, Subpath: "s", DriverConfig: &mount.Driver{Name: "local", Options: map[string]string{"g": "h"}},
					}},
					{Type: mount.TypeBind, Source: "/b", Target: "/b", BindOptions: &mount.BindOptions{
						Propagation: mount.PropagationRSlave, NonRecursive: true, CreateMountpoint: true, ReadOnlyNonRecursive: true, ReadOnlyForceRecursive: true,
					}},
					{Type: mount.TypeTmpfs, Target: "/t", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 9, Mode: 0o700, Options: [][]string{{"noexec"}}}},
				},
				StopGracePeriod: ptr(3 * time.Second),
				Healthcheck: &container.HealthConfig{
					Test: []string{"CMD", "true"}, Interval: 1, Timeout: 2, StartPeriod: 3, StartInterval: 4, Retries: 5,
				},
				Hosts: []string{"1.2.3.4 name"},
				DNSConfig: &swarm.DNSConfig{
					Nameservers: []netip.Addr{netip.MustParseAddr("9.9.9.9")}, Search: []string{"s"}, Options: []string{"ndots:1"},
				},
				Secrets: []*swarm.SecretReference{{
					File: &swarm.SecretReferenceFileTarget{Name: "n", UID: "1", GID: "2", Mode: 0o400}, SecretID: "i", SecretName: "sn",
				}},
				Configs: []*swarm.ConfigReference{
					{File: &swarm.ConfigReferenceFileTarget{Name: "n", UID: "1", GID: "2", Mode: 0o444}, ConfigID: "i", ConfigName: "cn"},
					{Runtime: &swarm.ConfigReferenceRuntimeTarget{}, ConfigID: "j", ConfigName: "rn"},
				},
				Isolation: container.IsolationProcess, Sysctls: map[string]string{"net.core.somaxconn": "1"},
				CapabilityAdd: []string{"CAP_NET_ADMIN"}, CapabilityDrop: []string{"CAP_CHOWN"},
				Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}, OomScoreAdj: 11,
			},
		},
	}
}

// never are fields that cannot be set together with the others, or that no
// service has.
var never = map[string]bool{
	"ServiceMode.Global": true, "ServiceMode.ReplicatedJob": true, "ServiceMode.GlobalJob": true,
	"TaskSpec.PluginSpec": true, "TaskSpec.NetworkAttachmentSpec": true,
	"CredentialSpec.Config": true, "CredentialSpec.Registry": true,
	"Mount.ImageOptions": true, "Mount.ClusterOptions": true,
}

// unset lists fields that full does not use in any place: a field that a later
// version of the API brings shows here.
func unset(v reflect.Value, used map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			unset(v.Elem(), used)
		}
	case reflect.Slice:
		for i := range v.Len() {
			unset(v.Index(i), used)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[netip.Addr]() {
			return
		}
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				continue
			}
			key := v.Type().Name() + "." + v.Type().Field(i).Name
			used[key] = used[key] || !v.Field(i).IsZero()
			unset(v.Field(i), used)
		}
	default:
	}
}

func TestServiceRoundTrip(t *testing.T) {
	want := full()
	used := map[string]bool{}
	unset(reflect.ValueOf(want), used)
	for key, ok := range used {
		if !ok && !never[key] {
			t.Errorf("the test leaves %s out", key)
		}
	}
	through, err := ServiceSpecTo(want)
	if err != nil {
		t.Fatal(err)
	}
	// Over the wire and back, as the store keeps it.
	raw, err := through.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var stored api.ServiceSpec
	if err := stored.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	if got := ServiceSpecFrom(stored); !reflect.DeepEqual(got, want) {
		t.Errorf("came back otherwise:\n got %+v\nwant %+v\n got %+v\nwant %+v", got, want, got.TaskTemplate.ContainerSpec, want.TaskTemplate.ContainerSpec)
	}
}

func TestModesRoundTrip(t *testing.T) {
	for name, m := range map[string]swarm.ServiceMode{
		"global":         {Global: &swarm.GlobalService{}},
		"global job":     {GlobalJob: &swarm.GlobalJob{}},
		"replicated job": {ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: ptr(uint64(2)), TotalCompletions: ptr(uint64(5))}},
		"replicated":     {Replicated: &swarm.ReplicatedService{Replicas: ptr(uint64(0))}},
	} {
		s := full()
		s.Mode = m
		out, err := ServiceSpecTo(s)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := ServiceSpecFrom(out).Mode; !reflect.DeepEqual(got, m) {
			t.Errorf("%s came back as %+v", name, got)
		}
	}
	out, err := ServiceSpecTo(swarm.ServiceSpec{TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "x"}}})
	if err != nil || out.GetReplicated() == nil || out.GetReplicated().Replicas != 1 {
		t.Errorf("no mode is one replica: %+v, %v", out.Mode, err)
	}
	both := full()
	both.Mode.Global = &swarm.GlobalService{}
	if _, err := ServiceSpecTo(both); err == nil {
		t.Error("two modes at once were taken")
	}
}

func TestWordsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*swarm.ServiceSpec){
		"order":     func(s *swarm.ServiceSpec) { s.UpdateConfig.Order = "sideways" },
		"action":    func(s *swarm.ServiceSpec) { s.RollbackConfig.FailureAction = "cry" },
		"mode":      func(s *swarm.ServiceSpec) { s.EndpointSpec.Mode = "magic" },
		"publish":   func(s *swarm.ServiceSpec) { s.EndpointSpec.Ports[0].PublishMode = "everywhere" },
		"protocol":  func(s *swarm.ServiceSpec) { s.EndpointSpec.Ports[0].Protocol = "ipx" },
		"condition": func(s *swarm.ServiceSpec) { s.TaskTemplate.RestartPolicy.Condition = "maybe" },
		"runtime":   func(s *swarm.ServiceSpec) { s.TaskTemplate.Runtime = "plugin" },
		"mount":     func(s *swarm.ServiceSpec) { s.TaskTemplate.ContainerSpec.Mounts[0].Type = "floppy" },
		"image":     func(s *swarm.ServiceSpec) { s.TaskTemplate.ContainerSpec.Mounts[0].Type = mount.TypeImage },
		"container": func(s *swarm.ServiceSpec) { s.TaskTemplate.ContainerSpec = nil },
		"secret":    func(s *swarm.ServiceSpec) { s.TaskTemplate.ContainerSpec.Secrets[0].File = nil },
		"config":    func(s *swarm.ServiceSpec) { s.TaskTemplate.ContainerSpec.Configs[0].File = nil },
		"seccomp":   func(s *swarm.ServiceSpec) { s.TaskTemplate.ContainerSpec.Privileges.Seccomp.Mode = "x" },
	} {
		s := full()
		change(&s)
		if _, err := ServiceSpecTo(s); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestNodeAndClusterRoundTrip(t *testing.T) {
	node := swarm.NodeSpec{
		Annotations: swarm.Annotations{Name: "n", Labels: map[string]string{"postgres": "master"}},
		Role:        swarm.NodeRoleManager, Availability: swarm.NodeAvailabilityDrain,
	}
	out, err := NodeSpecTo(node)
	if err != nil {
		t.Fatal(err)
	}
	if got := NodeSpecFrom(out); !reflect.DeepEqual(got, node) {
		t.Errorf("node came back as %+v", got)
	}
	if _, err := NodeSpecTo(swarm.NodeSpec{Role: "king", Availability: swarm.NodeAvailabilityActive}); err == nil {
		t.Error("a role that there is not was taken")
	}
	cluster := swarm.Spec{
		Annotations:   swarm.Annotations{Name: "default", Labels: map[string]string{"a": "b"}},
		Orchestration: swarm.OrchestrationConfig{TaskHistoryRetentionLimit: ptr(int64(3))},
		Raft:          swarm.RaftConfig{SnapshotInterval: 1, KeepOldSnapshots: ptr(uint64(2)), LogEntriesForSlowFollowers: 3, ElectionTick: 4, HeartbeatTick: 1},
		Dispatcher:    swarm.DispatcherConfig{HeartbeatPeriod: 2 * time.Second},
		CAConfig: swarm.CAConfig{NodeCertExpiry: time.Hour, SigningCACert: "c", ForceRotate: 4, ExternalCAs: []*swarm.ExternalCA{
			{Protocol: swarm.ExternalCAProtocolCFSSL, URL: "https://ca", Options: map[string]string{"o": "p"}, CACert: "d"},
		}},
		TaskDefaults:     swarm.TaskDefaults{LogDriver: &swarm.Driver{Name: "local", Options: map[string]string{"x": "y"}}},
		EncryptionConfig: swarm.EncryptionConfig{AutoLockManagers: true},
	}
	spec, err := ClusterSpecTo(cluster, api.ClusterSpec{})
	if err != nil {
		t.Fatal(err)
	}
	if got := ClusterSpecFrom(spec); !reflect.DeepEqual(got, cluster) {
		t.Errorf("cluster came back as\n%+v, want\n%+v", got, cluster)
	}
	secret := cluster
	secret.CAConfig.SigningCAKey = "k"
	if spec, err = ClusterSpecTo(secret, spec); err != nil || string(spec.CAConfig.SigningCAKey) != "k" {
		t.Errorf("key %q, %v", spec.CAConfig.SigningCAKey, err)
	}
	if got := ClusterSpecFrom(spec); got.CAConfig.SigningCAKey != "" {
		t.Error("the CA's key is shown")
	}
}

func TestTaskStates(t *testing.T) {
	for word, want := range map[string]api.TaskState{"running": api.TaskStateRunning, "shutdown": api.TaskStateShutdown, "complete": api.TaskStateCompleted} {
		got, ok := DesiredState(word)
		if !ok || got != want || string(TaskState(got)) != word {
			t.Errorf("%s: %v %v", word, got, ok)
		}
	}
	if _, ok := DesiredState("dreaming"); ok {
		t.Error("a state that there is not was taken")
	}
}
