// Command nettool is put into test images: a static program that speaks HTTP,
// DNS, UDP and bulk TCP, because busybox-static crashes when a name server
// answers it.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const usage = `usage:
  nettool serve ADDR TEXT       answer every HTTP request with TEXT
  nettool get URL               print an HTTP answer
  nettool lookup NAME           print the name's addresses
  nettool reverse ADDRESS       print the address's names
  nettool queries NAME SECONDS  ask for NAME without a pause, print answers per second and queries lost
  nettool udpecho ADDR          send datagrams back
  nettool sink ADDR             count what TCP connections send, answer the count
  nettool send ADDR SECONDS     send as fast as it goes, print bytes per second
  nettool agent SOCKET          ask an SSH agent for its keys, print the answer as it is
`

const patience = 2 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "nettool:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%s", usage)
	}
	args = append(args, "")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch args[0] {
	case "serve":
		return serve(args[1], args[2])
	case "get":
		return get(args[1])
	case "lookup":
		addrs, err := net.DefaultResolver.LookupHost(ctx, args[1])
		slices.Sort(addrs)
		fmt.Println(strings.Join(addrs, "\n"))
		return err
	case "reverse":
		names, err := net.DefaultResolver.LookupAddr(ctx, args[1])
		fmt.Println(strings.Join(names, "\n"))
		return err
	case "queries":
		seconds, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return queries(args[1], time.Duration(seconds)*time.Second)
	case "udpecho":
		return udpEcho(args[1])
	case "sink":
		return sink(args[1])
	case "send":
		seconds, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return send(args[1], time.Duration(seconds)*time.Second)
	case "agent":
		return agent(ctx, args[1])
	}
	return fmt.Errorf("%s", usage)
}

func serve(addr, text string) error {
	srv := &http.Server{Addr: addr, ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, text)
	})}
	return srv.ListenAndServe()
}

// agent speaks as much of the agents' protocol as it takes: messages begin with
// their length.
func agent(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	const requestIdentities = 11
	if _, err := conn.Write([]byte{0, 0, 0, 1, requestIdentities}); err != nil {
		return err
	}
	var size uint32
	if err := binary.Read(conn, binary.BigEndian, &size); err != nil {
		return err
	}
	_, err = io.CopyN(os.Stdout, conn, int64(size))
	return err
}

func get(url string) error {
	resp, err := (&http.Client{Timeout: patience}).Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

func udpEcho(addr string) error {
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	buf := make([]byte, 65536)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := pc.WriteTo(buf[:n], from); err != nil {
			return err
		}
	}
}

func sink(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
			if err != nil {
				fmt.Fprintln(os.Stderr, "nettool:", err)
			}
			fmt.Fprintln(c, n)
		}()
	}
}

func send(addr string, d time.Duration) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	start := time.Now()
	for time.Since(start) < d {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	// The other side answers what has arrived: what is only in buffers is not counted.
	var arrived int64
	if _, err := fmt.Fscan(c, &arrived); err != nil {
		return err
	}
	fmt.Println(int64(float64(arrived) / time.Since(start).Seconds()))
	return nil
}
