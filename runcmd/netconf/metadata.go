package netconf

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/fetch"
)

// interfaces bounds what is believed of a list: no type of instance has as many.
const interfaces = 64

// leaves are what is asked of each interface, in the order of read's arguments.
var leaves = []string{"device-number", "network-card", "local-ipv4s", "subnet-ipv4-cidr-block", "ipv6s"}

// learn asks the metadata service at an address what the interfaces should be, in three round trips.
func learn(ctx context.Context, server netip.AddrPort) ([]Wish, error) {
	const base = "/latest/meta-data/network/interfaces/macs/"
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := fetch.Client{Server: server}
	token, err := c.Do(ctx, fetch.Request{Method: "PUT", Path: "/latest/api/token",
		Header: map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "60"}})
	if err != nil {
		return nil, err
	}
	if token[0].Status != 200 {
		return nil, fmt.Errorf("ask for a metadata token: HTTP %d", token[0].Status)
	}
	get := func(paths ...string) ([]fetch.Response, error) {
		var requests []fetch.Request
		for _, p := range paths {
			requests = append(requests, fetch.Request{Method: "GET", Path: p, Header: map[string]string{"X-aws-ec2-metadata-token": string(token[0].Body)}})
		}
		return c.Do(ctx, requests...)
	}
	list, err := get(base)
	if err != nil {
		return nil, err
	}
	if list[0].Status != 200 {
		return nil, fmt.Errorf("list the interfaces of the metadata: HTTP %d", list[0].Status)
	}
	macs, err := parseList(string(list[0].Body))
	if err != nil || len(macs) == 0 {
		return nil, err
	}
	var paths []string
	for _, mac := range macs {
		for _, leaf := range leaves {
			paths = append(paths, base+mac.String()+"/"+leaf)
		}
	}
	answers, err := get(paths...)
	if err != nil {
		return nil, err
	}
	return collect(macs, paths, answers)
}

// parseList reads the names of the interfaces.
func parseList(text string) (macs []net.HardwareAddr, err error) {
	for line := range strings.Lines(text) {
		mac, err := net.ParseMAC(strings.TrimSuffix(strings.TrimSpace(line), "/"))
		if err != nil || len(mac) != 6 || len(macs) == interfaces {
			return nil, fmt.Errorf("metadata names an interface %.40q", line)
		}
		macs = append(macs, mac)
	}
	return macs, nil
}

// collect makes wishes of the answers to all leaves of all interfaces. One without a number has gone since they were
// listed.
func collect(macs []net.HardwareAddr, paths []string, answers []fetch.Response) ([]Wish, error) {
	var wishes []Wish
	for n, mac := range macs {
		texts := make([]string, len(leaves))
		for k := range leaves {
			at := n*len(leaves) + k
			switch answers[at].Status {
			case 200:
				texts[k] = string(answers[at].Body)
			case 404:
			default:
				return nil, fmt.Errorf("read %s: HTTP %d", paths[at], answers[at].Status)
			}
		}
		if texts[0] == "" {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(texts[0]), 10, 16); err == nil && n > 99 {
			continue // no table is left for it: it is others' to configure, and the rest is kept
		}
		w := Wish{MAC: [6]byte(mac)}
		if err := w.read(texts[0], cmp.Or(texts[1], "0"), texts[2], texts[3], texts[4]); err != nil {
			return nil, err
		}
		wishes = append(wishes, w)
	}
	return wishes, nil
}

// read fills a wish from the texts of the metadata.
func (w *Wish) read(number, card, addresses, subnet, six string) (err error) {
	if w.Number, err = small(number); err != nil {
		return err
	}
	if w.Card, err = small(card); err != nil {
		return err
	}
	if w.Subnet, err = netip.ParsePrefix(strings.TrimSpace(subnet)); err != nil || !w.Subnet.Addr().Is4() {
		return fmt.Errorf("metadata has a subnet %.40q", subnet)
	}
	for line := range strings.Lines(addresses) {
		a, err := netip.ParseAddr(strings.TrimSpace(line))
		if err != nil || !w.Subnet.Contains(a) {
			return fmt.Errorf("metadata has an address %.40q in %s", line, w.Subnet)
		}
		w.Addresses = append(w.Addresses, a)
	}
	for line := range strings.Lines(six) {
		a, err := netip.ParseAddr(strings.TrimSpace(line))
		if err != nil || !a.Is6() || a.Is4In6() || !a.IsGlobalUnicast() || a.Zone() != "" {
			return fmt.Errorf("metadata has an address of IPv6 %.50q", line)
		}
		w.IPv6 = append(w.IPv6, a)
	}
	return nil
}

// small reads the number of a device or a card: below 100, or the numbers of tables would overlap.
func small(s string) (int, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 8)
	if err != nil || n >= 100 {
		return 0, fmt.Errorf("metadata has a device number %.20q", s)
	}
	return int(n), nil
}
