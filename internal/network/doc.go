// Package network owns networks: their records, address management, the
// sandboxes (network namespaces) of containers and the endpoints in them.
//
// The kernel and the wire are ports: Link (interfaces, addresses, routes,
// namespaces), Firewall (address translation, forwarding, isolation) and
// Resolver (names inside containers), each filled by a sub-package named after
// its technology. Its verbs for containers are those of container.Networks.
package network
