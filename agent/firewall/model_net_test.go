//go:build net

package firewall_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/agent/eni"
	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// The kernel must let pass exactly what cloud.Allows says: whatever the groups are, and whatever they were before.
// Every packet is the first of a connection of its own, goes in by one tap and is looked for at all of them.
func TestTheKernelAllowsWhatTheModelAllows(t *testing.T) {
	const rounds, probes = 40, 250
	rng := rand.New(rand.NewPCG(1, 2))
	w := newWire(t)
	var allowed, denied, wrong int
	for round := range rounds {
		v := randomVPC(rng)
		w.load(v)
		batch := make([]probe, probes)
		for k := range batch {
			batch[k] = v.randomProbe(rng, uint32(round*probes+k))
		}
		batch = strangers(batch)
		arrived := w.send(batch)
		for _, p := range batch {
			want := v.allows(p)
			if want {
				allowed++
			} else {
				denied++
			}
			if got := arrived[p.seq]; want && got != v.tapOf(p.dst) || !want && got != "" {
				wrong++
				t.Errorf("round %d: %s: it arrived at tap %q, the model says %v\nfrom %s\nto %s", round, p, got, want, v.show(p.src, true), v.show(p.dst, false))
			}
		}
	}
	t.Logf("%d packets: %d allowed, %d denied, %d not as the model says", allowed+denied, allowed, denied, wrong)
	if allowed < rounds*probes/10 || denied < rounds*probes/10 {
		t.Errorf("%d allowed and %d denied: a test of one verdict alone says little", allowed, denied)
	}
}

// strangers returns the packets without those that the kernel would take for an earlier one's connection: to it two
// addresses have one connection of a protocol that has no ports.
func strangers(batch []probe) []probe {
	type pair struct {
		a, b     netip.Addr
		protocol int
	}
	seen := map[pair]bool{}
	return slices.DeleteFunc(batch, func(p probe) bool {
		k, back := pair{p.src, p.dst, p.protocol}, pair{p.dst, p.src, p.protocol}
		known := p.protocol != 1 && p.protocol != 6 && p.protocol != 17 && (seen[k] || seen[back])
		seen[k] = true
		return known
	})
}

// guests is how many interfaces the groups are tried on. One more, the appliance, may speak for anybody, and leads to all
// addresses that are not here.
const guests = 5

const appliance = guests

var away = []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24")}

func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + n)}) }
func mac(n int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, 0, byte(10 + n)}
}
func interfaceID(n int) cloud.InterfaceID { return cloud.InterfaceID(fmt.Sprintf("eni-%017d", n)) }

// vpc is one set of groups and who is in them.
type vpc struct {
	groups  map[cloud.GroupID]cloud.SecurityGroup
	of      map[netip.Addr][]cloud.GroupID // an address's groups, wherever it is
	ordered []cloud.GroupID
}

// open lets everything pass, and is the appliance's. ends lets pass the datagrams that end a batch, and is everybody's.
const open, ends, endPort = cloud.GroupID("sg-open"), cloud.GroupID("sg-ends"), 7

func randomVPC(rng *rand.Rand) vpc {
	v := vpc{groups: map[cloud.GroupID]cloud.SecurityGroup{}, of: map[netip.Addr][]cloud.GroupID{}}
	for k := range 6 {
		v.ordered = append(v.ordered, cloud.GroupID(fmt.Sprintf("sg-%d", k)))
	}
	for _, id := range v.ordered {
		g := cloud.SecurityGroup{ID: id, VPC: "vpc-1"}
		for range rng.IntN(6) {
			g.Ingress = append(g.Ingress, randomRule(rng, v.ordered))
		}
		for range 1 + rng.IntN(6) {
			g.Egress = append(g.Egress, randomRule(rng, v.ordered))
		}
		if rng.IntN(2) == 0 { // as most groups have it
			g.Egress = append(g.Egress, rule("-1", -1, -1, "0.0.0.0/0"))
		}
		v.groups[id] = g
	}
	all := []cloud.GroupRule{rule("-1", -1, -1, "0.0.0.0/0")}
	v.groups[open] = cloud.SecurityGroup{ID: open, VPC: "vpc-1", Ingress: all, Egress: all}
	last := []cloud.GroupRule{rule("udp", endPort, endPort, "0.0.0.0/0")}
	v.groups[ends] = cloud.SecurityGroup{ID: ends, VPC: "vpc-1", Ingress: last, Egress: last}
	for n := range guests {
		ids := slices.Clone(v.ordered)
		rng.Shuffle(len(ids), func(a, b int) { ids[a], ids[b] = ids[b], ids[a] })
		v.of[address(n)] = append(ids[:1+rng.IntN(3)], ends)
	}
	v.of[address(appliance)] = []cloud.GroupID{open}
	v.of[netip.MustParseAddr("10.0.1.5")] = []cloud.GroupID{v.ordered[rng.IntN(len(v.ordered))]} // on another host
	return v
}

func pick[T any](rng *rand.Rand, list ...T) T { return list[rng.IntN(len(list))] }

// edges are where rules begin and end, and packets are just inside or outside.
var edges = []int{0, 1, 21, 22, 23, 79, 80, 81, 443, 1023, 1024, 8080, 8090, 32767, 32768, 65534, 65535}

func randomRule(rng *rand.Rand, groups []cloud.GroupID) cloud.GroupRule {
	var r cloud.GroupRule
	switch protocol := pick(rng, "tcp", "tcp", "tcp", "udp", "udp", "icmp", "icmp", "-1", "50", "89"); protocol {
	case "tcp", "udp":
		a, b := pick(rng, edges...), pick(rng, edges...)
		r = rule(protocol, min(a, b), max(a, b), "")
	case "icmp":
		r = rule(protocol, pick(rng, -1, 8, 8, 13, 15, 17, 3, 0, 14, 11, 30), pick(rng, -1, -1, 0, 1, 255), "")
		if r.FromPort == -1 {
			r.ToPort = -1
		}
	default:
		r = rule(protocol, -1, -1, "")
	}
	if rng.IntN(3) == 0 {
		r.Group = pick(rng, groups...)
		return r
	}
	r.CIDR = pick(rng, "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.0.0.8/29", "10.0.0.11/32", "10.0.0.12/31",
		"10.0.1.0/24", "10.0.1.5/32", "203.0.113.0/24", "203.0.113.128/25", "203.0.113.7/32", "198.51.100.0/24", "::/0")
	return r
}

func rule(protocol string, from, to int, cidr string) cloud.GroupRule {
	return cloud.GroupRule{ID: "sgr-1", Protocol: protocol, FromPort: from, ToPort: to, CIDR: cidr}
}

// probe is one packet.
type probe struct {
	seq        uint32
	src, dst   netip.Addr
	protocol   int
	port       int
	kind, code int
}

func (p probe) String() string {
	return fmt.Sprintf("protocol %d port %d type %d code %d from %s to %s", p.protocol, p.port, p.kind, p.code, p.src, p.dst)
}

func (v vpc) randomProbe(rng *rand.Rand, seq uint32) probe {
	p := probe{seq: seq, src: address(rng.IntN(guests)), dst: address(rng.IntN(guests))}
	for p.dst == p.src {
		p.dst = address(rng.IntN(guests))
	}
	elsewhere := netip.MustParseAddr(pick(rng, "10.0.1.5", "10.0.1.6", "203.0.113.7", "203.0.113.8", "203.0.113.200", "198.51.100.1"))
	switch rng.IntN(4) {
	case 0:
		p.src = elsewhere
	case 1:
		p.dst = elsewhere
	}
	p.protocol = pick(rng, 1, 1, 6, 6, 6, 17, 17, 50, 89)
	switch p.protocol {
	case 1: // types that ask, answers and errors to nothing, types that nobody knows. Of redirects the groups are not asked
		p.kind, p.code = pick(rng, 8, 8, 13, 15, 17, 0, 14, 18, 3, 4, 11, 12, 9, 30, 255), pick(rng, 0, 0, 1, 2, 255)
	case 6, 17:
		p.port = min(65535, max(0, pick(rng, edges...)+rng.IntN(3)-1))
	}
	return p
}

// allows is what the model says of the whole way: out of one guest and into the other.
func (v vpc) allows(p probe) bool {
	groups := func(a netip.Addr) (out []cloud.SecurityGroup) {
		ids := v.of[a]
		if v.through(a) == appliance {
			ids = []cloud.GroupID{open}
		}
		for _, id := range ids {
			out = append(out, v.groups[id])
		}
		return out
	}
	packet := cloud.Packet{Protocol: p.protocol, Port: p.port, Type: p.kind, Code: p.code}
	packet.Peer, packet.PeerGroups = p.dst, v.of[p.dst]
	if !cloud.Allows(groups(p.src), true, packet) {
		return false
	}
	packet.Peer, packet.PeerGroups = p.src, v.of[p.src]
	return cloud.Allows(groups(p.dst), false, packet)
}

// through returns the interface that an address is reached by.
func (v vpc) through(a netip.Addr) int {
	for n := range guests {
		if address(n) == a {
			return n
		}
	}
	return appliance
}

func (v vpc) tapOf(a netip.Addr) string { return eni.TapName(interfaceID(v.through(a))) }

func (v vpc) show(a netip.Addr, egress bool) string {
	s := a.String()
	for _, id := range v.of[a] {
		s += fmt.Sprintf(" %s%v", id, v.groups[id].Rules(egress))
	}
	return s
}

// config is the VPC as a host is told of it.
func (v vpc) config() eni.Config {
	subnet := cloud.Subnet{ID: "subnet-1", VPC: "vpc-1", CIDR: netip.MustParsePrefix("10.0.0.0/24")}
	network := cloud.HostNetwork{VPC: cloud.VPC{ID: "vpc-1", CIDR: netip.MustParsePrefix("10.0.0.0/16")}, Subnets: []cloud.HostSubnet{{Subnet: subnet}}}
	members := map[cloud.GroupID][]netip.Addr{}
	for a, ids := range v.of {
		for _, id := range ids {
			members[id] = append(members[id], a)
		}
	}
	for id, g := range v.groups {
		network.Groups = append(network.Groups, cloud.HostGroup{SecurityGroup: g, Members: members[id]})
	}
	c := eni.Config{VPCs: []cloud.HostNetwork{network}}
	for n := range guests + 1 {
		c.Interfaces = append(c.Interfaces, &eni.Interface{Network: subnet, NetworkInterface: cloud.NetworkInterface{
			ID: interfaceID(n), VPC: "vpc-1", Subnet: "subnet-1", MAC: mac(n).String(), Addresses: []netip.Addr{address(n)},
			Groups: v.of[address(n)], SourceDestCheck: n != appliance,
		}})
	}
	return c
}

// wire is a namespace that routes between the taps of the guests and of the appliance.
type wire struct {
	*testing.T
	space *nstest.Namespace
	fd    int
	taps  map[string]*os.File
	macs  map[string]net.HardwareAddr // of the host's ends
}

func newWire(t *testing.T) *wire {
	n := nstest.New(t, "model")
	f, err := os.Open("/run/netns/model")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := &wire{T: t, space: n, fd: int(f.Fd()), taps: map[string]*os.File{}, macs: map[string]net.HardwareAddr{}}
	err = n.Do(func() error {
		for key, value := range map[string]string{"ip_forward": "1", "conf/all/rp_filter": "0", "conf/default/rp_filter": "0", "conf/all/send_redirects": "0", "conf/default/send_redirects": "0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+key, []byte(value), 0); err != nil {
				return err
			}
		}
		for k := range guests + 1 {
			name := eni.TapName(interfaceID(k))
			if w.taps[name], err = openTap(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for k := range guests + 1 {
		name := eni.TapName(interfaceID(k))
		w.macs[name] = net.HardwareAddr{2, 1, 0, 0, 0, byte(k)}
		n.IP("link set %s address %s group 10", name, w.macs[name]) // 10 is the group of taps
		n.IP("link set %s up", name)
		n.IP("route add %s/32 dev %s", address(k), name)
		n.IP("neigh add %s lladdr %s dev %s nud permanent", address(k), mac(k), name)
		t.Cleanup(func() { w.taps[name].Close() })
	}
	for _, p := range away {
		n.IP("route add %s via %s dev %s onlink", p, address(appliance), eni.TapName(interfaceID(appliance)))
	}
	return w
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// load makes the kernel's rules those of the VPC, from whatever they were, and makes it forget all connections.
func (w *wire) load(v vpc) {
	w.Helper()
	plan, err := eni.Compile(v.config())
	if err != nil {
		w.Fatal(err)
	}
	if _, err := firewall.Apply(w.fd, plan.Firewall["vpc-1"]); err != nil {
		w.Fatal(err)
	}
	if err := w.space.Do(forget); err != nil {
		w.Fatalf("forget connections: %v", err)
	}
}

// forget deletes all tracked connections of the thread's namespace: one netlink message of ctnetlink that names none.
func forget() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const subsystem, deletion = 1, 2 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE of linux/netfilter
	m := binary.NativeEndian.AppendUint32(nil, unix.NLMSG_HDRLEN+4)
	m = binary.NativeEndian.AppendUint16(m, subsystem<<8|deletion)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = append(m, make([]byte, 8+4)...)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 256)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err == nil && n >= unix.NLMSG_HDRLEN+4 {
		if code := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); code != 0 {
			err = unix.Errno(-code)
		}
	}
	return err
}

// send puts the packets on the wire, and returns the tap at which each arrived.
func (w *wire) send(batch []probe) map[uint32]string {
	w.Helper()
	v := vpc{}
	write := func(p probe) {
		n := v.through(p.src)
		tap := eni.TapName(interfaceID(n))
		if _, err := w.taps[tap].Write(nstest.Ethernet(w.macs[tap], mac(n), 0x0800, nstest.IPv4(p.src, p.dst, byte(p.protocol), p.payload()))); err != nil {
			w.Fatalf("send %s: %v", p, err)
		}
	}
	for _, p := range batch {
		write(p)
	}
	arrived := map[uint32]string{}
	for n := range guests + 1 { // what ends the batch comes behind it at each tap
		name := eni.TapName(interfaceID(n))
		p := probe{seq: ^uint32(n), src: address(appliance), dst: address(n), protocol: 17, port: endPort}
		if n == appliance {
			p.src = address(0)
		}
		write(p)
		if err := w.taps[name].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			w.Fatal(err)
		}
		buf := make([]byte, 2048)
		for arrived[p.seq] == "" {
			k, err := w.taps[name].Read(buf)
			if err != nil {
				w.Fatalf("the end of the batch does not arrive at %s: %v", name, err)
			}
			if seq, ok := readProbe(buf[:k]); ok {
				arrived[seq] = name
			}
		}
	}
	return arrived
}

// magic marks our packets. The sequence number that follows makes each one known.
const magic = 0x1c417064

// payload is all after the IP header. Source ports and identifiers make each packet a connection of its own.
func (p probe) payload() []byte {
	mark := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, magic), p.seq)
	source := uint16(10000 + p.seq%20000)
	switch p.protocol {
	case 1:
		b := []byte{byte(p.kind), byte(p.code), 0, 0}
		b = binary.BigEndian.AppendUint16(b, uint16(p.seq))
		b = append(append(b, 0, 1), make([]byte, 12)...) // a timestamp's or a mask's fields
		b = append(b, mark...)
		binary.BigEndian.PutUint16(b[2:], ^nstest.Sum(0, b))
		return b
	case 6:
		b := binary.BigEndian.AppendUint16(nil, source)
		b = binary.BigEndian.AppendUint16(b, uint16(p.port))
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0) // SYN
		b = append(b, mark...)
		pseudo := append(append(p.src.AsSlice(), p.dst.AsSlice()...), 0, 6, 0, byte(len(b)))
		binary.BigEndian.PutUint16(b[16:], ^nstest.Sum(uint32(nstest.Sum(0, pseudo)), b))
		return b
	case 17:
		return nstest.UDP(source, uint16(p.port), mark)
	}
	return append(make([]byte, 8), mark...)
}

func readProbe(frame []byte) (seq uint32, ok bool) {
	if len(frame) < 34 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return 0, false
	}
	end := 14 + int(binary.BigEndian.Uint16(frame[16:]))
	if end > len(frame) || end < 42 || binary.BigEndian.Uint32(frame[end-8:]) != magic {
		return 0, false
	}
	return binary.BigEndian.Uint32(frame[end-4:]), true
}
