package firewall

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch follows the transactions on the rules of a namespace.
type Watch struct{ c *netlink.Conn }

// NewWatch begins to follow the namespace fd, 0 for our own.
func NewWatch(fd int) (*Watch, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: fd, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	return &Watch{c}, nil
}

// Run calls changed for every transaction of another process, with that process's name and number, or with ""
// and 0 if events were lost. It returns when ctx ends.
func (w *Watch) Run(ctx context.Context, changed func(who string, pid int)) {
	defer context.AfterFunc(ctx, func() { w.c.Close() })()
	for {
		msgs, err := w.c.Receive()
		if ctx.Err() != nil {
			return
		}
		if err != nil { // more events than the socket could hold
			changed("", 0)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		for _, m := range msgs {
			if who, pid, ok := generation(m); ok && !own(pid) {
				changed(who, pid)
			}
		}
	}
}

// own reports whether the number, which the kernel takes from the thread, is one of this process's threads.
func own(thread int) bool {
	_, err := os.Stat("/proc/self/task/" + strconv.Itoa(thread))
	return err == nil
}

// generation parses the message that ends each transaction.
func generation(m netlink.Message) (who string, pid int, ok bool) {
	const nfgenmsg = 4
	if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN || len(m.Data) < nfgenmsg {
		return "", 0, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[nfgenmsg:])
	if err != nil {
		return "", 0, false
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_GEN_PROC_PID:
			pid = int(ad.Uint32())
		case unix.NFTA_GEN_PROC_NAME:
			who = strings.TrimRight(ad.String(), "\x00")
		}
	}
	return who, pid, ad.Err() == nil
}
