package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	resolver = "127.0.0.11:53"
	askers   = 8
	inFlight = 32 // queries that one asker has under way
)

// queries has several askers keep a number of queries under way each.
func queries(name string, d time.Duration) error {
	var answered, lost atomic.Int64
	errs := make([]error, askers)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range askers {
		wg.Go(func() { errs[i] = ask(name, start.Add(d), &answered, &lost) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Printf("%.0f %d\n", float64(answered.Load())/time.Since(start).Seconds(), lost.Load())
	return nil
}

func ask(name string, until time.Time, answered, lost *atomic.Int64) error {
	c, err := net.Dial("udp", resolver)
	if err != nil {
		return err
	}
	defer c.Close()
	q := question(name)
	var id uint16
	send := func() error {
		id++
		binary.BigEndian.PutUint16(q, id)
		_, err := c.Write(q)
		return err
	}
	waiting := 0
	buf := make([]byte, 512)
	for {
		for waiting < inFlight && time.Now().Before(until) {
			if err := send(); err != nil {
				return err
			}
			waiting++
		}
		if waiting == 0 {
			return nil
		}
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		n, err := c.Read(buf)
		if err != nil { // what has not come by now does not come
			lost.Add(int64(waiting))
			waiting = 0
			continue
		}
		// A response without an error and with an answer.
		if n < 12 || buf[2]&0x80 == 0 || buf[3]&0xf != 0 || binary.BigEndian.Uint16(buf[6:]) == 0 {
			return fmt.Errorf("answer %x", buf[:n])
		}
		answered.Add(1)
		waiting--
	}
}

// question is a DNS query for the IPv4 address of a name.
func question(name string) []byte {
	q := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0} // recursion desired, one question
	for label := range strings.SplitSeq(name, ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	return append(q, 0, 0, 1, 0, 1) // A, IN
}
