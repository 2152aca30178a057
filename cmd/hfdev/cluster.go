package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// A development cluster belongs to a keeper: this program, in the background.
// The other commands ask it over a socket.

const (
	upLimit   = 5 * time.Minute
	downLimit = 2 * time.Minute
)

// clusterRequest is what a command asks the keeper for.
type clusterRequest struct {
	Op   string // ls, kill, stop, start, partition, heal, down
	Node int    // counted from 1
}

// clusterReply is its answer.
type clusterReply struct {
	Error string
	Nodes []clusterNode
}

// clusterNode is a node as `hfdev ls` shows it.
type clusterNode struct {
	Name, Addr, Host, Log string
	Pid                   int
	Running, Cut          bool
	Enter                 []string // the command line that gets into its namespaces
	Env                   []string // what clients need
}

func clusterDir(name string) string { return filepath.Join(os.TempDir(), "hfdev-"+name) }

// clusterFlags are those that all commands of a cluster have.
func clusterFlags(cmd string) (*flag.FlagSet, *string) {
	fs := flag.NewFlagSet(cmd, flag.ContinueOnError)
	return fs, fs.String("name", "dev", "which cluster")
}

// runCluster serves the commands up, down, ls, exec, logs, kill, stop, start,
// partition, heal.
func runCluster(ctx context.Context, cmd string, args []string) error {
	switch cmd {
	case "up":
		return clusterUp(ctx, args)
	case "keep":
		return clusterKeep(ctx, args)
	case "ls", "down":
		fs, name := clusterFlags(cmd)
		if err := fs.Parse(args); err != nil {
			return err
		}
		r, err := askKeeper(ctx, *name, clusterRequest{Op: cmd})
		if err == nil && cmd == "ls" {
			err = printNodes(os.Stdout, r.Nodes)
		}
		return err
	case "kill", "stop", "start", "partition", "heal":
		_, _, err := onNode(ctx, cmd, cmd, args)
		return err
	case "exec":
		n, rest, err := onNode(ctx, cmd, "ls", args)
		if err != nil {
			return err
		}
		if len(rest) == 0 {
			rest = []string{"bash"}
		}
		return become(append(n.Enter, rest...), n.Env)
	case "logs":
		n, rest, err := onNode(ctx, cmd, "ls", args)
		if err != nil {
			return err
		}
		return become(append(append([]string{"tail", "-n", "+1"}, rest...), n.Log), nil)
	}
	return fmt.Errorf("no command %q", cmd)
}

// onNode reads NODE and what follows it, and has the keeper do op to it.
func onNode(ctx context.Context, cmd, op string, args []string) (clusterNode, []string, error) {
	fs, name := clusterFlags(cmd)
	if err := fs.Parse(args); err != nil {
		return clusterNode{}, nil, err
	}
	if fs.NArg() == 0 {
		return clusterNode{}, nil, fmt.Errorf("hfdev %s NODE: which node? (a number, or its name)", cmd)
	}
	i, err := strconv.Atoi(strings.TrimPrefix(fs.Arg(0), "node"))
	if err != nil {
		return clusterNode{}, nil, fmt.Errorf("no node %q", fs.Arg(0))
	}
	r, err := askKeeper(ctx, *name, clusterRequest{Op: op, Node: i})
	if err != nil {
		return clusterNode{}, nil, err
	}
	if i < 1 || i > len(r.Nodes) {
		return clusterNode{}, nil, fmt.Errorf("no node %d: there are %d", i, len(r.Nodes))
	}
	return r.Nodes[i-1], fs.Args()[1:], nil
}

// become turns this process into another program.
func become(argv, env []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, argv, append(os.Environ(), env...))
}

func printNodes(w io.Writer, nodes []clusterNode) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tADDRESS\tDAEMON\tNETWORK\tDOCKER_HOST")
	for _, n := range nodes {
		state, link := "down", "joined"
		if n.Running {
			state = "pid " + strconv.Itoa(n.Pid)
		}
		if n.Cut {
			link = "cut off"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", n.Name, n.Addr, state, link, n.Host)
	}
	return t.Flush()
}

func askKeeper(ctx context.Context, name string, q clusterRequest) (clusterReply, error) {
	var r clusterReply
	ctx, cancel := context.WithTimeout(ctx, downLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(clusterDir(name), "control.sock"))
	if err != nil {
		return r, fmt.Errorf("no cluster %q is up: %w", name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the read below
	defer stop()
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return r, err
	}
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return r, fmt.Errorf("the keeper of cluster %q: %w", name, err)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// clusterUp starts a keeper and waits until its nodes are there.
func clusterUp(ctx context.Context, args []string) error {
	fs, name := clusterFlags("up")
	fs.Int("n", 4, "nodes")
	fs.Int("managers", 1, "how many of them are managers; 0: make no swarm")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if _, err := askKeeper(ctx, *name, clusterRequest{Op: "ls"}); err == nil {
		return fmt.Errorf("cluster %q is up already: hfdev down -name %s takes it down", *name, *name)
	}
	dir := clusterDir(*name)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "keeper.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// It outlives this command, so its life is not this context's.
	keeper := exec.Command(self, append([]string{"keep"}, args...)...) //nolint:noctx // see above
	keeper.Stdout, keeper.Stderr = log, log
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keeper.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- keeper.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			out, rerr := os.ReadFile(log.Name())
			return errors.Join(fmt.Errorf("the keeper ended: %w\n%s", err, out), rerr)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), keeper.Process.Signal(syscall.SIGTERM))
		case <-tick.C:
		}
		if r, err := askKeeper(ctx, *name, clusterRequest{Op: "ls"}); err == nil {
			return printNodes(os.Stdout, r.Nodes)
		}
	}
}

// clusterKeep owns the nodes until it is told to take them down.
func clusterKeep(ctx context.Context, args []string) error {
	fs, name := clusterFlags("keep")
	n := fs.Int("n", 4, "")
	managers := fs.Int("managers", 1, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	dir := clusterDir(*name)
	var last net.Conn // who asked for the end is answered after it
	failed := testkit.RunProgram("hfdev", func(t testkit.TB) {
		c := testkit.NewCluster(t, testkit.ClusterOptions{Nodes: *n})
		for i := 1; i <= c.Size(); i++ {
			c.Node(i).Image("busybox")
		}
		if *managers > 0 {
			c.Swarm(*managers)
		}
		l, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
		if err != nil {
			t.Fatalf("listen: %v", err)
		}
		defer l.Close()
		stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // ends the loop below
		defer stop()
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if serveKeeper(c, conn) {
				last = conn
				return
			}
		}
	})
	var r clusterReply
	if failed {
		r.Error = "the cluster did not end well: see " + filepath.Join(dir, "keeper.log")
	}
	if last != nil {
		_ = json.NewEncoder(last).Encode(r) // who asked may have gone
		_ = last.Close()
	}
	if failed {
		return errors.New(r.Error)
	}
	return os.RemoveAll(dir)
}

// serveKeeper answers one request and tells whether it is the last one, whose
// connection stays open.
func serveKeeper(c *testkit.Cluster, conn net.Conn) (down bool) {
	var q clusterRequest
	if err := json.NewDecoder(conn).Decode(&q); err != nil {
		_ = conn.Close() // a client that said nothing
		return false
	}
	if q.Op == "down" {
		return true
	}
	r := clusterReply{}
	if err := keeperDo(c, q); err != nil {
		r.Error = err.Error()
	}
	for i := 1; i <= c.Size(); i++ {
		d := c.Node(i)
		r.Nodes = append(r.Nodes, clusterNode{
			Name: "node" + strconv.Itoa(i), Addr: c.Addr(i), Host: d.Host(), Log: d.LogPath(), Pid: d.Pid(),
			Running: d.Running(), Cut: c.Cut(i), Enter: d.EnterArgs(), Env: []string{"DOCKER_HOST=" + d.Host()},
		})
	}
	_ = json.NewEncoder(conn).Encode(r) // who asked may have gone
	_ = conn.Close()
	return false
}

func keeperDo(c *testkit.Cluster, q clusterRequest) error {
	if q.Op == "ls" {
		return nil
	}
	if q.Node < 1 || q.Node > c.Size() {
		return fmt.Errorf("no node %d: there are %d", q.Node, c.Size())
	}
	d := c.Node(q.Node)
	switch q.Op {
	case "kill":
		d.Kill()
	case "stop":
		d.Stop()
	case "start":
		if d.Running() {
			return nil
		}
		return d.TryStart()
	case "partition":
		c.Partition(q.Node)
	case "heal":
		c.Heal(q.Node)
	default:
		return fmt.Errorf("no command %q", q.Op)
	}
	return nil
}
