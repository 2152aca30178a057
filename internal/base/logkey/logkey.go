// Package logkey holds the attribute keys of structured logs, so that one fact has one name.
package logkey

// Keys of slog attributes.
const (
	Container = "container"
	Exec      = "exec"
	Image     = "image"
	Volume    = "volume"
	Network   = "network"
	Endpoint  = "endpoint"
	Driver    = "driver"
	Path      = "path"
	From      = "from"
	To        = "to"
	Why       = "why"
	Err       = "err"
	Method    = "method"
	Status    = "status"
	Duration  = "duration"
	Address   = "address"
	Pid       = "pid"
	Name      = "name"
	Body      = "body"
	Stack     = "stack"
	Part      = "part"
	Applied   = "applied"
	Waiting   = "waiting"
	Text      = "text"
	Epoch     = "epoch"
)
