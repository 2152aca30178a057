// Package swarm serves the endpoints of a swarm: itself, its nodes, services,
// tasks, secrets and configs.
package swarm
