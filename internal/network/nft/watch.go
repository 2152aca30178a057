package nft

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchBuffer holds the kernel's news of a large batch, such as a flush of
// thousands of rules. More than fits is told as a loss, which we take as news.
const watchBuffer = 4 << 20

// Watch implements network.Firewall.
func (f *Firewall) Watch(ctx context.Context) (<-chan struct{}, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("watch rules: %w", err)
	}
	// Without the privilege to force it the kernel's limit holds; it is enough for most.
	_ = c.SetReadBuffer(watchBuffer)
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, errors.Join(fmt.Errorf("watch rules: %w", err), c.Close())
	}
	changed := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	go func() {
		defer close(changed)
		defer stop()
		for {
			msgs, err := c.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				_ = c.Close() // ctx ended, or there is no more to be had
				return
			}
			if err == nil && !f.touched(msgs) {
				continue
			}
			select {
			case changed <- struct{}{}:
			default: // told already, and not yet heard
			}
		}
	}()
	return changed, nil
}

// touched tells whether a message is of our table and not of our own doing.
func (f *Firewall) touched(msgs []netlink.Message) bool {
	for _, m := range msgs {
		if m.Header.PID == f.port || m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
			continue
		}
		if len(m.Data) < 4 || m.Data[0] != unix.NFPROTO_INET {
			continue
		}
		d, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return true // rather one look too many
		}
		for d.Next() {
			// Tables, chains, rules, sets and elements all have the table's name there.
			if d.Type() == unix.NFTA_TABLE_NAME && d.String() == f.name {
				return true
			}
		}
		if d.Err() != nil {
			return true
		}
	}
	return false
}

// portOf is the number that the kernel knows a socket by.
func portOf(c *netlink.Conn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var sa unix.Sockaddr
	var inner error
	if err := raw.Control(func(fd uintptr) { sa, inner = unix.Getsockname(int(fd)) }); err != nil || inner != nil {
		return 0, errors.Join(err, inner)
	}
	nl, ok := sa.(*unix.SockaddrNetlink)
	if !ok {
		return 0, fmt.Errorf("netlink socket has the address %v", sa)
	}
	return nl.Pid, nil
}
