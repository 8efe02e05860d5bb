// Package doctor looks at what a host needs and says how to mend what is missing.
//
// Each check looks at the machine itself (opens the device, makes the table in a namespace of its own),
// never at a version number from which the answer might follow. A finding that stops a host from working
// is a failure; one that costs speed or limits size is a warning.
package doctor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Grade says how bad a finding is.
type Grade string

// The grades.
const (
	OK   Grade = "ok"
	Warn Grade = "warn"
	Fail Grade = "FAIL"
)

// Finding is the result of one check.
type Finding struct {
	Check string
	Grade Grade
	Found string // what is there
	Mend  string // what to do, "" when OK
}

// Where is what the checks look at besides the machine.
type Where struct {
	State  string
	Ranges []netip.Prefix // addresses that a host gives out
}

// Examine runs all checks in order.
func Examine(w Where) []Finding {
	checks := []struct {
		name string
		run  func(Where) (Grade, string, string)
	}{
		{"root", root},
		{"virtualization", accel},
		{"QEMU", program("qemu-system-x86_64", "qemu-system-x86")},
		{"guest kernel", kernel},
		{"tun device", tun},
		{"network namespaces", namespaces},
		{"network settings", sysctls},
		{"nftables", nftables},
		{"forwarding", forwarding},
		{"address ranges", ranges},
		{"inotify limit", inotify},
		{"open files limit", files},
		{"memory", memory},
		{"disk space", disk},
	}
	out := make([]Finding, len(checks))
	for i, c := range checks {
		grade, found, mend := c.run(w)
		out[i] = Finding{c.name, grade, found, mend}
	}
	return out
}

func root(Where) (Grade, string, string) {
	if os.Geteuid() != 0 {
		return Fail, "not root", "run as root: the agent makes namespaces and interfaces"
	}
	return OK, "root", ""
}

// accel follows the rule of the shim: KVM only when the device opens and the processor says vmx or svm.
func accel(Where) (Grade, string, string) {
	info, _ := os.ReadFile("/proc/cpuinfo")
	flag := strings.Contains(string(info), " vmx") || strings.Contains(string(info), " svm")
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	switch {
	case err == nil && flag:
		return OK, "KVM", ""
	case err == nil:
		return Warn, "TCG: /dev/kvm opens but the processor shows neither vmx nor svm, so guests would hang in it", "guests run 5 to 20 times slower; use bare metal, or switch on nested virtualization below"
	case flag:
		return Warn, "TCG: /dev/kvm: " + err.Error(), "modprobe kvm_intel or kvm_amd, and switch on virtualization in the firmware"
	}
	return Warn, "TCG: the processor has no virtualization", "guests run 5 to 20 times slower; use a machine with VT-x or AMD-V"
}

func program(name, pkg string) func(Where) (Grade, string, string) {
	return func(Where) (Grade, string, string) {
		path, err := exec.LookPath(name)
		if err != nil {
			return Fail, name + " is not installed", "apt-get install " + pkg
		}
		return OK, path, ""
	}
}

func kernel(Where) (Grade, string, string) {
	found, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if len(found) == 0 {
		return Warn, "no /boot/vmlinuz-*-cloud-amd64: the small image cannot be built", "apt-get install linux-image-cloud-amd64"
	}
	return OK, found[len(found)-1], ""
}

func tun(Where) (Grade, string, string) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return Fail, err.Error(), "modprobe tun; if the file is missing: mkdir -p /dev/net && mknod /dev/net/tun c 10 200"
	}
	f.Close()
	return OK, "/dev/net/tun", ""
}

// inNamespace runs f on a thread of its own in a new network namespace; the thread ends with it.
func inNamespace(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not fit for anything else
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

func namespaces(Where) (Grade, string, string) {
	if err := inNamespace(func() error { return nil }); err != nil {
		return Fail, "make a network namespace: " + err.Error(), "needs root and a kernel with CONFIG_NET_NS"
	}
	return OK, "can be made", ""
}

// sysctls sees whether the settings of a new namespace can be changed: in containers they often cannot.
func sysctls(Where) (Grade, string, string) {
	err := inNamespace(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
	if err != nil {
		return Fail, err.Error(), "mount -o remount,rw /proc/sys; with systemd-nspawn: SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes"
	}
	return OK, "can be changed", ""
}

func nftables(Where) (Grade, string, string) {
	err := inNamespace(func() error {
		// A socket on NETLINK_NETFILTER answers even without nf_tables; a table does not.
		cmd := exec.Command("nft", "add table inet ichiro_doctor; add table arp ichiro_doctor; delete table inet ichiro_doctor")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	})
	if err != nil {
		return Fail, "make a table: " + err.Error(), "apt-get install nftables; modprobe nf_tables"
	}
	return OK, "tables can be made", ""
}

// forwarding looks for others' chains that drop what they do not know, as Docker's and firewalld's do: an accept in
// our table does not overrule them.
func forwarding(Where) (Grade, string, string) {
	out, err := exec.Command("nft", "-j", "list", "chains").Output()
	if err != nil {
		return Warn, "list chains: " + err.Error(), "apt-get install nftables"
	}
	chains, err := dropping(out)
	if err != nil {
		return Warn, err.Error(), ""
	}
	if len(chains) > 0 {
		return Warn, "dropped unless " + strings.Join(chains, " or ") + " accepts it",
			`guests do not get out: let it accept iifname "ic*" and oifname "ic*"; with Docker, in the chain DOCKER-USER`
	}
	return OK, "nobody drops it", ""
}

// dropping returns the chains at the forward hook with the policy drop, of what nft -j lists.
func dropping(list []byte) (names []string, err error) {
	var out struct {
		NFTables []struct {
			Chain struct{ Family, Table, Name, Hook, Policy string }
		}
	}
	if err := json.Unmarshal(list, &out); err != nil {
		return nil, fmt.Errorf("read nft's list of chains: %v", err)
	}
	for _, o := range out.NFTables {
		if c := o.Chain; c.Hook == "forward" && c.Policy == "drop" {
			names = append(names, fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Name))
		}
	}
	return names, nil
}

// ranges looks for addresses of this machine inside what guests and uplinks are given.
func ranges(w Where) (Grade, string, string) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return Warn, err.Error(), "look at `ip addr`"
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		for _, r := range w.Ranges {
			if r.Overlaps(p.Masked()) && p.Bits() > 0 {
				return Warn, fmt.Sprintf("%s of this machine lies in %s, which ichiro uses", p, r), "choose another range with --uplink-range, or another subnet for your instances: they cannot reach the machine's network there"
			}
		}
	}
	return OK, "free", ""
}

func inotify(Where) (Grade, string, string) {
	const want = 512 // the default of 128 is used up by some 60 sessions of other agents (seen with amazon-ssm-agent)
	n := number("/proc/sys/fs/inotify/max_user_instances")
	if n < want {
		return Warn, fmt.Sprintf("fs.inotify.max_user_instances = %d", n), fmt.Sprintf("sysctl -w fs.inotify.max_user_instances=8192 (at least %d), and in /etc/sysctl.d to keep it", want)
	}
	return OK, strconv.Itoa(n), ""
}

func files(Where) (Grade, string, string) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return Warn, err.Error(), ""
	}
	if r.Max < 4096 {
		return Warn, fmt.Sprintf("%d", r.Max), "ulimit -Hn 65536, or LimitNOFILE=65536 in the unit"
	}
	return OK, fmt.Sprintf("%d", r.Max), ""
}

func memory(Where) (Grade, string, string) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return Warn, err.Error(), ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib int
		if n, _ := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			if kib < 1<<20 {
				return Warn, fmt.Sprintf("%d MiB available", kib/1024), "a t2.micro needs 1 GiB: end something, or use t2.nano"
			}
			return OK, fmt.Sprintf("%d MiB available", kib/1024), ""
		}
	}
	return Warn, "unknown", ""
}

func disk(w Where) (Grade, string, string) {
	dir := w.State
	for dir != "/" {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return Warn, err.Error(), ""
	}
	mib := s.Bavail * uint64(s.Bsize) >> 20
	if mib < 1024 {
		return Warn, fmt.Sprintf("%d MiB free below %s", mib, w.State), "etcd and images want 1 GiB: free some, or choose another --state"
	}
	return OK, fmt.Sprintf("%d MiB free below %s", mib, w.State), ""
}

func number(path string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return n
}
