// Package container owns containers: their records, phases, the supervisor that
// keeps them as their records say (restart policy, health checks, automatic
// removal), their logs, standard streams and additional processes (exec).
//
// It knows no technology. Images, layers, tasks, volumes and networks are ports
// declared in ports.go and filled by adapters; internal/daemon joins them.
package container
