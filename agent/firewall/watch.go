package firewall

import (
	"encoding/binary"
	"strings"

	"github.com/ichiro-metal/ichiro/agent/notice"
	"golang.org/x/sys/unix"
)

// Watch hears of the transactions on the rules of a namespace.
type Watch struct{ s *notice.Socket }

// newGeneration is the message that ends each transaction and names its maker.
const newGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN

// NewWatch begins to hear of the namespace fd, 0 for our own.
func NewWatch(fd int) (*Watch, error) {
	// A transaction also tells of every element that it brings: dropped at the door, or thousands would fill the socket.
	// The filter reads in network byte order, the header is in the machine's.
	var kind [2]byte
	binary.NativeEndian.PutUint16(kind[:], newGeneration)
	s, err := notice.Open(fd, unix.NETLINK_NETFILTER, []int{unix.NFNLGRP_NFTABLES},
		unix.SockFilter{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(binary.BigEndian.Uint16(kind[:])), Jf: 1},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 20},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
	if err != nil {
		return nil, err
	}
	return &Watch{s}, nil
}

// Close ends it.
func (w *Watch) Close() { w.s.Close() }

// foreign returns who has made transactions since it was called last, apart from the socket own.
func (w *Watch) foreign(own uint32) (who []string) {
	lost := w.s.Drain(func(m notice.Message) {
		if m.Port == own && own != 0 {
			return
		}
		if name, pid, ok := generation(m); ok {
			who = append(who, describe(name, pid))
		}
	})
	if lost {
		who = append(who, describe("", 0))
	}
	return who
}

// generation parses the message that ends each transaction.
func generation(m notice.Message) (who string, pid int, ok bool) {
	const nfgenmsg = 4
	if m.Type != newGeneration || len(m.Data) < nfgenmsg {
		return "", 0, false
	}
	for kind, value := range m.Attributes(nfgenmsg) {
		switch {
		case kind == unix.NFTA_GEN_PROC_PID && len(value) == 4:
			pid = int(binary.BigEndian.Uint32(value))
		case kind == unix.NFTA_GEN_PROC_NAME:
			who = strings.TrimRight(string(value), "\x00")
		}
	}
	return who, pid, true
}
