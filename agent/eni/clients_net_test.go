//go:build net

package eni

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// Stock clients, as they are in images that people have, against the whole way: tap, rules, server.

// patience ends a client that waits for what does not come: each needs well below a second, networkd some.
const patience = time.Minute

// heard is a VPC whose options have everything, for one guest with a small MTU and IPv6.
func heard(prefix string) Config {
	i := guestInterface(1, "sg-default")
	i.MTU = 1400
	i.Network.Blocks = []cloud.CIDRBlock{{ID: "subnet-cidr-assoc-1", CIDR: netip.MustParsePrefix("2001:db8:0:1::/64")}}
	i.IPv6 = []netip.Addr{netip.MustParseAddr("2001:db8:0:1::b")}
	i.Prefixes = []netip.Prefix{netip.MustParsePrefix("2001:db8:0:1:5::/80")}
	c := config(prefix, i)
	v := &c.VPCs[0]
	v.VPC.EnableDNS = true
	v.VPC.Blocks = []cloud.CIDRBlock{{ID: "vpc-cidr-assoc-1", CIDR: netip.MustParsePrefix("2001:db8::/56")}}
	v.Options = cloud.DHCPOptions{
		ID: "dopt-2", DomainName: "a.example b.example", DomainNameServers: []string{cloud.ProvidedDNS, "10.9.9.9", "2001:db8::2"},
		NTPServers: []string{"169.254.169.123"}, NetBIOSNameServers: []string{"10.9.9.7"}, NetBIOSNodeType: 2,
	}
	return c
}

// moved is heard after the interface has another address.
func moved(prefix string) Config {
	c := heard(prefix)
	c.Interfaces[0].Addresses = []netip.Addr{netip.MustParseAddr("172.31.0.77")}
	return c
}

// client is a program in a guest's namespace. What it prints is read line by line.
type client struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Scanner
	log []string
}

// spawn starts a program in the guest, with mounts of its own that a shell script makes first.
func spawn(t *testing.T, g *nstest.Guest, mounts string, argv ...string) *client {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Skipf("%s is not installed: deploy/scripts/needs test", argv[0])
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c := &client{t: t, cmd: exec.CommandContext(ctx, "unshare", append([]string{"-m", "sh", "-e", "-c", mounts + "\nexec \"$@\"", "sh"}, argv...)...)}
	c.cmd.WaitDelay = time.Second
	c.cmd.Cancel = func() error { return syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) } // with the children that hold its pipe
	c.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdout, c.cmd.Stderr = w, w
	c.out = bufio.NewScanner(r)
	if err := g.Do(c.cmd.Start); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		cancel()
		_ = c.cmd.Wait()
		r.Close()
	})
	return c
}

// await reads until a line has each of the words.
func (c *client) await(words ...string) string {
	c.t.Helper()
next:
	for c.out.Scan() {
		line := c.out.Text()
		c.log = append(c.log, line)
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		return line
	}
	c.t.Fatalf("%v has not said %q:\n%s", c.cmd.Args[7:], words, strings.Join(c.log, "\n"))
	return ""
}

// end ends a client as an operator does, and waits for it: what it keeps, it has then written.
func (c *client) end() {
	c.t.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	for c.out.Scan() {
	}
	_ = c.cmd.Wait()
}

// crash ends a client as a loss of power does.
func (c *client) crash() {
	c.t.Helper()
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	for c.out.Scan() {
	}
	_ = c.cmd.Wait()
}

// hook writes a script that prints its environment in one line, sorted.
func hook(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho \"HOOK $1 $(env | sort | tr '\\n' '|')\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// expect looks for variables in a line of a hook.
func expect(t *testing.T, line string, variables ...string) {
	t.Helper()
	for _, v := range variables {
		if !strings.Contains(line, "|"+v+"|") {
			t.Errorf("not heard %s:\n%s", v, strings.ReplaceAll(line, "|", "\n"))
		}
	}
}

func TestUdhcpcIsToldEverythingAndRenews(t *testing.T) {
	m := start(t, "eca")
	apply(t, m, heard("eca"))
	g := boot(t, m, 1)
	c := spawn(t, g, "", "busybox", "udhcpc", "-i", "eth0", "-f", "-s", hook(t), "-O", "mtu", "-O", "search", "-O", "wins", "-O", "ntpsrv", "-O", "staticroutes")
	expect(t, c.await("HOOK bound"), "ip=172.31.0.11", "mtu=1400", "hostname=ip-172-31-0-11", "dns=172.31.0.2 10.9.9.9", "search=a.example b.example",
		"ntpsrv=169.254.169.123", "wins=10.9.9.7", "router=172.31.0.1", "lease=3600")
	acks := m.Counters()["dhcp_acks"]
	_ = syscall.Kill(c.cmd.Process.Pid, syscall.SIGUSR1)
	expect(t, c.await("HOOK renew"), "ip=172.31.0.11")
	if got := m.Counters()["dhcp_acks"]; got != acks+1 {
		t.Errorf("%d acks after the renewal, want %d", got, acks+1)
	}
	c.end()
	// It is gone, and another has come: what the client remembers does not help it.
	apply(t, m, moved("eca"))
	c = spawn(t, g, "", "busybox", "udhcpc", "-i", "eth0", "-f", "-s", hook(t), "-r", "172.31.0.11")
	expect(t, c.await("HOOK bound"), "ip=172.31.0.77")
}

func TestClasslessRoutesHaveTheDefaultRoute(t *testing.T) {
	m := start(t, "ecb")
	c := heard("ecb")
	c.ClasslessRoutes = true
	apply(t, m, c)
	u := spawn(t, boot(t, m, 1), "", "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-s", hook(t), "-O", "staticroutes", "-O", "msstaticroutes")
	expect(t, u.await("HOOK bound"), "staticroutes=169.254.169.254/32 0.0.0.0 0.0.0.0/0 172.31.0.1", "msstaticroutes=169.254.169.254/32 0.0.0.0 0.0.0.0/0 172.31.0.1")
}

func TestDhclientKeepsItsLeaseAndLosesIt(t *testing.T) {
	m := start(t, "ecc")
	apply(t, m, heard("ecc"))
	g := boot(t, m, 1)
	dir, sf := t.TempDir(), hook(t)
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte("also request interface-mtu, domain-search, ntp-servers, netbios-name-servers;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	begin := func() *client {
		return spawn(t, g, "", "dhclient", "-d", "-sf", sf, "-lf", dir+"/leases", "-pf", dir+"/pid", "-cf", conf, "eth0")
	}
	c := begin()
	expect(t, c.await("HOOK", "reason=BOUND"), "new_ip_address=172.31.0.11", "new_interface_mtu=1400", "new_host_name=ip-172-31-0-11",
		"new_domain_name_servers=172.31.0.2 10.9.9.9", "new_domain_name=a.example b.example", "new_domain_search=a.example. b.example.",
		"new_ntp_servers=169.254.169.123", "new_netbios_name_servers=10.9.9.7", "new_dhcp_lease_time=3600")
	c.await("bound to") // it has written it down
	c.end()
	discovers := m.Counters()["dhcp_discovers"]
	c = begin()
	expect(t, c.await("HOOK", "reason=REBOOT"), "new_ip_address=172.31.0.11")
	c.end()
	if got := m.Counters()["dhcp_discovers"]; got != discovers {
		t.Errorf("it has discovered again: the test proves nothing")
	}
	apply(t, m, moved("ecc"))
	c = begin()
	expect(t, c.await("HOOK", "reason=BOUND"), "new_ip_address=172.31.0.77")
	if got := m.Counters()["dhcp_naks"]; got == 0 {
		t.Error("the old address was not refused")
	}
}

// dhcpcdMounts keep dhcpcd's state in a directory of the test.
func dhcpcdMounts(dir string) string {
	return "mkdir -p /run/dhcpcd /var/lib/dhcpcd; mount -t tmpfs run /run/dhcpcd; mount --bind " + dir + " /var/lib/dhcpcd"
}

func TestDhcpcdKeepsItsLeaseAndLosesIt(t *testing.T) {
	if _, err := exec.LookPath("dhcpcd"); err != nil {
		t.Skip("dhcpcd is not installed: deploy/scripts/needs test")
	}
	m := start(t, "ecd")
	apply(t, m, heard("ecd"))
	g := boot(t, m, 1)
	dir, script := t.TempDir(), hook(t)
	begin := func() *client {
		// It is several processes: in a namespace of theirs they end with the first.
		return spawn(t, g, dhcpcdMounts(dir), "unshare", "-p", "-f", "--kill-child", "dhcpcd", "-f", "/dev/null", "-B", "-4", "-A", "-c", script,
			"-o", "interface_mtu,host_name,domain_search,domain_name_servers,ntp_servers,rapid_commit", "eth0")
	}
	c := begin()
	expect(t, c.await("HOOK", "reason=BOUND"), "new_ip_address=172.31.0.11", "new_interface_mtu=1400", "new_host_name=ip-172-31-0-11",
		"new_domain_name_servers=172.31.0.2 10.9.9.9", "new_domain_search=a.example b.example", "new_ntp_servers=169.254.169.123")
	c.crash()
	naks := m.Counters()["dhcp_naks"]
	c = begin()
	expect(t, c.await("HOOK", "reason=REBOOT"), "new_ip_address=172.31.0.11")
	c.crash()
	if got := m.Counters()["dhcp_naks"]; got != naks {
		t.Errorf("%d NAKs for the kept lease", got-naks)
	}
	apply(t, m, moved("ecd"))
	c = begin()
	expect(t, c.await("HOOK", "reason=BOUND"), "new_ip_address=172.31.0.77")
}

func TestNetworkdConfiguresBothFamilies(t *testing.T) {
	const networkd = "/lib/systemd/systemd-networkd"
	if _, err := os.Stat(networkd); errors.Is(err, fs.ErrNotExist) {
		t.Skip("systemd-networkd is not installed")
	}
	m := start(t, "ece")
	apply(t, m, heard("ece"))
	g := boot(t, m, 1)
	g.Sysctl("ipv6/conf/eth0/disable_ipv6", "0")
	etc, run := t.TempDir(), t.TempDir()
	network := "[Match]\nName=eth0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n[DHCPv4]\nUseMTU=yes\nUseDomains=yes\n"
	if err := os.WriteFile(etc+"/eth0.network", []byte(network), 0o644); err != nil {
		t.Fatal(err)
	}
	// It serves a user of its own, who must pass both directories, and waits for udev where /sys can be written.
	for _, d := range []string{etc, run, filepath.Dir(etc), filepath.Dir(run)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	mounts := "mkdir -p /etc/systemd/network /run/systemd; mount --bind " + etc + " /etc/systemd/network; mount -t tmpfs run /run/systemd; mkdir /run/systemd/netif;" +
		"mount --bind " + run + " /run/systemd/netif; mount -t sysfs -o ro sysfs /sys"
	changes := monitor(t, g)
	c := spawn(t, g, mounts, networkd)
	go func() { // or it stands still when the pipe is full
		for c.out.Scan() {
		}
	}()
	changes(func() bool {
		addrs := g.IP("-o addr show dev eth0")
		return strings.Contains(addrs, "inet 172.31.0.11/20") && strings.Contains(addrs, "inet6 2001:db8:0:1::b/128") && !strings.Contains(addrs, "tentative") &&
			strings.Contains(g.IP("-6 route show default"), "fe80::") && strings.Contains(g.IP("route show default"), "172.31.0.1") &&
			strings.Contains(g.IP("-o link show eth0"), "mtu 1400")
	})
	if got := g.IP("-o -6 addr show dev eth0 scope global"); strings.Count(got, "inet6") != 1 {
		t.Errorf("it has made up addresses:\n%s", got)
	}
	if out, err := g.Run("ping", "-6", "-c", "1", "-W", "5", "2001:db8:0:1::1"); err != nil {
		t.Errorf("its router does not answer to the address that it was given: %s", out)
	}
	leases, err := filepath.Glob(run + "/leases/*")
	if err != nil || len(leases) != 1 {
		t.Fatalf("leases %v, %v", leases, err)
	}
	lease, err := os.ReadFile(leases[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ADDRESS=172.31.0.11", "HOSTNAME=ip-172-31-0-11", "DNS=172.31.0.2 10.9.9.9", "MTU=1400", "NTP=169.254.169.123", "LIFETIME=3600"} {
		if !strings.Contains(string(lease), want+"\n") {
			t.Errorf("networkd was not heard %s:\n%s", want, lease)
		}
	}
}

// monitor follows the guest's addresses, links and routes. The function it returns blocks until something is true of them.
func monitor(t *testing.T, g *nstest.Guest) func(true func() bool) {
	t.Helper()
	c := spawn(t, g, "", "ip", "monitor", "link", "address", "route", "neigh")
	return func(true func() bool) {
		t.Helper()
		for !true() {
			if !c.out.Scan() {
				t.Fatalf("it has not come true; the guest has\n%s%s", g.IP("addr"), g.IP("-6 route"))
			}
		}
	}
}

func TestDhclientGetsIPv6AddressesAndPrefixes(t *testing.T) {
	m := start(t, "ecf")
	apply(t, m, heard("ecf"))
	g := boot(t, m, 1)
	changes := monitor(t, g)
	g.Sysctl("ipv6/conf/eth0/disable_ipv6", "0")
	changes(func() bool {
		a := g.IP("-o -6 addr show dev eth0")
		return strings.Contains(a, "fe80") && !strings.Contains(a, "tentative")
	})
	dir := t.TempDir()
	c := spawn(t, g, "", "dhclient", "-6", "-N", "-P", "-d", "-sf", hook(t), "-lf", dir+"/leases", "-pf", dir+"/pid", "-cf", "/dev/null", "eth0")
	expect(t, c.await("HOOK", "reason=BOUND6", "new_ip6_address"), "new_ip6_address=2001:db8:0:1::b", "new_preferred_life=140", "new_max_life=450", "new_dhcp6_name_servers=2001:db8::2")
	expect(t, c.await("HOOK", "reason=BOUND6", "new_ip6_prefix"), "new_ip6_prefix=2001:db8:0:1:5::/80")
	c.end()
	// The kept lease is confirmed, and what it has is renewed before its 70 seconds are over.
	c = spawn(t, g, "", "dhclient", "-6", "-d", "-sf", hook(t), "-lf", dir+"/leases", "-pf", dir+"/pid", "-cf", "/dev/null", "eth0")
	c.await("HOOK", "new_ip6_address=2001:db8:0:1::b")
	if m.Counters()["dhcp6_confirms"]+m.Counters()["dhcp6_rebinds"] == 0 {
		t.Errorf("nothing was confirmed: %v", m.Counters())
	}
}

func TestTheKernelsNeighboursAreTheRouter(t *testing.T) {
	m := start(t, "ecg")
	apply(t, m, heard("ecg"))
	g := boot(t, m, 1)
	changes := monitor(t, g)
	g.Sysctl("ipv6/conf/eth0/disable_ipv6", "0")
	// The router is there, as the kernel itself hears it.
	changes(func() bool { return strings.Contains(g.IP("-6 route show default"), "proto ra") })
	if got := g.IP("-o -6 addr show dev eth0 scope global"); got != "" {
		t.Errorf("the kernel has made up an address:\n%s", got)
	}
	// What a tool does that takes the subnet for the link: the own address passes its check, another's does not.
	g.IP("addr add 2001:db8:0:1::b/64 dev eth0")
	g.IP("addr add 2001:db8:0:1::c/64 dev eth0")
	changes(func() bool {
		a := g.IP("-o -6 addr show dev eth0 scope global")
		return strings.Contains(a, "dadfailed") && strings.Count(a, "tentative") == 1
	})
	for line := range strings.Lines(g.IP("-o -6 addr show dev eth0 scope global")) {
		if strings.Contains(line, "dadfailed") != strings.Contains(line, "2001:db8:0:1::c") {
			t.Errorf("the wrong address failed: %s", line)
		}
	}
	// A neighbour is asked for.
	_, _ = g.Run("ping", "-6", "-c", "1", "-W", "1", "2001:db8:0:1::99")
	if got := g.IP("-6 neigh show 2001:db8:0:1::99 dev eth0"); !strings.Contains(got, "lladdr 02:") {
		t.Errorf("the neighbour is not known: %q; counters %v", got, m.Counters())
	}
	// Without IPv6 the router says good-bye.
	c := heard("ecg")
	c.Interfaces[0].IPv6, c.Interfaces[0].Prefixes = nil, nil
	apply(t, m, c)
	changes(func() bool { return !strings.Contains(g.IP("-6 route show default"), "proto ra") })
}
