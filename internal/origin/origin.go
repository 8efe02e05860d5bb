// Package origin is how a connection that is carried for a guest says whose it is.
//
// The metadata service carries guests' connections to the API, which would otherwise take the host for their
// sender. Before the guest's first byte it writes one of these: a length of one byte, and a line of that
// length. What a guest writes comes behind it, so a guest can neither write one nor change it; that the one who writes is the
// metadata service, and not another user of the host, the socket's credentials prove.
package origin

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Guest is who is at the far end: an instance, and the address that it sends from in its VPC.
type Guest struct {
	Instance cloud.InstanceID
	VPC      cloud.VPCID
	From     netip.AddrPort
}

// Gateway stands for the VPC where a host's gateway carries the registration of a machine that is no guest; Instance is the host then.
const Gateway cloud.VPCID = "gateway"

// Write writes g at the head of a connection.
func Write(w io.Writer, g Guest) error {
	line := fmt.Sprintf("%s %s %s", g.Instance, g.VPC, g.From)
	if len(line) > 255 {
		return fmt.Errorf("write the origin of %s: it has %d bytes", g.Instance, len(line))
	}
	_, err := w.Write(append([]byte{byte(len(line))}, line...))
	return err
}

// Read reads what Write wrote, and not one byte more.
func Read(r io.Reader) (Guest, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return Guest{}, fmt.Errorf("read the origin of a connection: %w", err)
	}
	line := make([]byte, n[0])
	if _, err := io.ReadFull(r, line); err != nil {
		return Guest{}, fmt.Errorf("read the origin of a connection: %w", err)
	}
	f := strings.Split(string(line), " ")
	if len(f) != 3 || f[0] == "" || f[1] == "" {
		return Guest{}, fmt.Errorf("read the origin of a connection: %.80q is none", line)
	}
	from, err := netip.ParseAddrPort(f[2])
	if err != nil {
		return Guest{}, fmt.Errorf("read the origin of a connection: %v", err)
	}
	return Guest{cloud.InstanceID(f[0]), cloud.VPCID(f[1]), from}, nil
}
