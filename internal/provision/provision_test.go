package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// machine is a scratch tree. Scripts run for real; the tools that a distribution has are written down.
type machine struct {
	t       testing.TB
	root    string
	tools   []string
	codes   map[string]int
	calls   []string
	owners  []string
	name    string
	out     *os.File
	console strings.Builder
}

func newMachine(t testing.TB, distro string, tools ...string) *machine {
	m := &machine{t: t, root: t.TempDir(), tools: tools}
	m.put("etc/os-release", "ID="+distro+"\n")
	m.put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\neve:x:1000:1000::/home/eve:/bin/sh\n")
	m.put("etc/group", "root:x:0:\nadm:x:4:\neve:x:1000:\n")
	m.put("proc/uptime", "7.25 3.00\n")
	if err := os.MkdirAll(filepath.Join(m.root, "var/log"), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.out, err = os.OpenFile(filepath.Join(m.root, "var/log/cloud-init-output.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.out.Close() })
	return m
}

func (m *machine) put(name, text string) {
	m.t.Helper()
	file := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// read is a file's text; empty if it is not there.
func (m *machine) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(m.root, name))
	return string(text)
}

func (m *machine) Look(name string) bool { return slices.Contains(m.tools, name) }

func (m *machine) Run(ctx context.Context, c Command) (int, error) {
	if strings.HasPrefix(c.Argv[0], "/") {
		c.Env = append(c.Env, "R="+m.root)
		return Programs{Output: m.out}.Run(ctx, c)
	}
	call := strings.Join(c.Argv, " ")
	if c.Input != "" {
		call += " <" + strings.TrimSpace(c.Input)
	}
	m.calls = append(m.calls, call)
	if c.Argv[0] == "useradd" {
		name := c.Argv[len(c.Argv)-1]
		m.put("etc/passwd", m.read("etc/passwd")+name+":x:1001:1001::/home/"+name+":/bin/sh\n")
	}
	return m.codes[c.Argv[0]], nil
}

func (m *machine) system() System {
	return System{Root: m.root, Commands: m, Console: &m.console, Now: func() time.Time { return time.Unix(1_800_000_000, 0) },
		Sethostname: func(name string) error { m.name = name; return nil },
		Chown: func(dir *os.Root, name string, uid, gid int) error {
			m.owners = append(m.owners, fmt.Sprintf("%s %d:%d", strings.TrimPrefix(filepath.Join(dir.Name(), name), m.root), uid, gid))
			return nil
		}}
}

func (m *machine) boot(id, userData string) Result {
	m.t.Helper()
	m.calls, m.owners = nil, nil
	result, err := Run(m.t.Context(), m.system(), Instance{ID: id, Hostname: "ip-10-0-0-5.ec2.internal", LaunchIndex: "0", Region: "ichiro-1", Keys: []string{"ssh-ed25519 AAAA walker"}, UserData: []byte(userData),
		Get: func(context.Context, string) ([]byte, error) { return nil, errors.New("HTTP 404") },
		Data: func(context.Context) (*yaml.Value, error) {
			doc, err := yaml.Load([]byte("v1: {region: ichiro-1}\n"))
			return doc.Root, err
		}})
	if err != nil {
		m.t.Fatal(err)
	}
	return result
}

// events is what the scripts wrote since the last question.
func (m *machine) events() string {
	text := m.read("events")
	os.Remove(filepath.Join(m.root, "events"))
	return strings.Join(strings.Fields(text), " ")
}

// event is a script that says that it ran.
func event(name string) string { return "#!/bin/sh\necho " + name + " >> $R/events\n" }

func message(parts ...string) string {
	var b strings.Builder
	b.WriteString("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n")
	for i := 0; i+2 < len(parts); i += 3 {
		fmt.Fprintf(&b, "--x\nContent-Type: %s\nContent-Disposition: attachment; filename=%s\n\n%s\n", parts[i], parts[i+1], parts[i+2])
	}
	return b.String() + "--x--\n"
}

func everything() string {
	return message("text/x-shellscript", "z-user", event("user"),
		"text/x-shellscript-per-boot", "boot", event("per-boot"),
		"text/x-shellscript-per-once", "once", event("per-once"),
		"text/x-shellscript-per-instance", "instance", event("per-instance"),
		"text/cloud-boothook", "hook", "#cloud-boothook\necho hook-$INSTANCE_ID >> $R/events\n",
		"text/jinja2", "template", "## template: jinja\n"+event("{{ v1.region }}"),
		"text/cloud-config", "config", "bootcmd:\n- echo bootcmd-$INSTANCE_ID >> $R/events\nruncmd:\n- echo runcmd >> $R/events\n")
}

func TestScriptsRunInOrderAndAsOftenAsTheyShould(t *testing.T) {
	m := newMachine(t, "ichiro")
	for _, c := range []struct{ name, id, want string }{
		{"the first boot runs all", "i-1", "hook-i-1 bootcmd-i-1 per-once per-boot per-instance runcmd ichiro-1 user"},
		{"the next boot runs what is for every boot", "i-1", "hook-i-1 bootcmd-i-1 per-boot"},
		{"another instance runs all but what is for once", "i-2", "hook-i-2 bootcmd-i-2 per-boot per-instance runcmd ichiro-1 user"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := m.boot(c.id, everything()); len(got.Troubles) > 0 || got.Power != nil {
				t.Errorf("got %v", got.Troubles)
			}
			if got := m.events(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	if got := m.read("var/lib/cloud/data/previous-instance-id"); got != "i-1\n" {
		t.Errorf("the instance before is %q", got)
	}
	if to, err := os.Readlink(filepath.Join(m.root, "var/lib/cloud/instance")); err != nil || to != "/var/lib/cloud/instances/i-2" {
		t.Errorf("the instance's link leads to %q, %v", to, err)
	}
}

const whole = `#cloud-config
repo_update: true
packages: [jq, [php, "8.1"]]
write_files:
- {path: /etc/a/b, content: "hello\n", permissions: '0640', owner: 'eve:adm'}
- {path: /late, content: x, defer: true, owner: web}
hostname: web
manage_etc_hosts: true
users:
- default
- {name: web, groups: [www], sudo: 'ALL=(ALL) ALL', shell: /bin/zsh, ssh_authorized_keys: [ssh-rsa BBBB w], passwd: $6$hash, gecos: The web}
groups: [{cloud: [eve]}]
ssh_authorized_keys: [ssh-rsa CCCC c]
timezone: Europe/Berlin
swap: {filename: /swap, size: 1M}
mounts: [[tmpfs, /data, tmpfs, size=1m]]
runcmd: [[echo, done]]
power_state: {mode: poweroff, delay: 2}
`

func TestDirectivesByTheToolsOfADistribution(t *testing.T) {
	m := newMachine(t, "debian", "useradd", "usermod", "groupadd", "chpasswd", "apt-get", "mkswap", "swapon", "mount", "shutdown", "sudo")
	m.put("usr/share/zoneinfo/Europe/Berlin", "TZif")
	got := m.boot("i-1", whole)
	if len(got.Troubles) > 0 {
		t.Errorf("got %q", got.Troubles)
	}
	if err := got.Power(t.Context()); err != nil {
		t.Error(err)
	}
	want := []string{"mkswap /swap", "mount -t tmpfs -o size=1m tmpfs /data", "swapon /swap", "groupadd cloud",
		"useradd --comment debian --groups adm --create-home -- debian", "usermod --lock debian",
		"groupadd www", "useradd --shell /bin/zsh --comment The web --groups www --create-home -- web", "chpasswd -e <web:$6$hash", "usermod --lock web",
		"usermod -a -G cloud eve",
		"apt-get -y -q -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300 update",
		"apt-get -y -q -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300 install jq php=8.1", "shutdown -P +2"}
	if !slices.Equal(m.calls, want) {
		t.Errorf("got calls\n%s\nwant\n%s", strings.Join(m.calls, "\n"), strings.Join(want, "\n"))
	}
	for name, want := range map[string]string{
		"etc/a/b": "hello\n", "late": "x", "etc/hostname": "web\n", "etc/timezone": "Europe/Berlin\n",
		"etc/hosts":                         "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 ip-10-0-0-5.ec2.internal web\n",
		"etc/fstab":                         "tmpfs\t/data\ttmpfs\tsize=1m,comment=cloudconfig\t0\t2\n/swap\tnone\tswap\tsw,comment=cloudconfig\t0\t0\n",
		"etc/sudoers.d/90-cloud-init-users": "debian ALL=(ALL) NOPASSWD:ALL\nweb ALL=(ALL) ALL\n",
		"home/web/.ssh/authorized_keys":     "ssh-rsa BBBB w\n",
		"home/debian/.ssh/authorized_keys":  "ssh-ed25519 AAAA walker\nssh-rsa CCCC c\n",
		"var/log/cloud-init-output.log":     "done\n",
	} {
		if got := m.read(name); got != want {
			t.Errorf("%s is\n%q\nwant\n%q", name, got, want)
		}
	}
	if got := m.read("root/.ssh/authorized_keys"); strings.Count(got, "log in as debian") != 2 {
		t.Errorf("root's keys are %q; want both to lead to debian", got)
	}
	if !slices.Contains(m.owners, "/etc/a/b 1000:4") || !slices.Contains(m.owners, "/late 1001:-1") {
		t.Errorf("owners are %q", m.owners)
	}
	if info, err := os.Stat(filepath.Join(m.root, "etc/a/b")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode: %v, %v", info.Mode(), err)
	}
	if m.name != "web" || !strings.Contains(m.console.String(), "provisioned, up 7.25 seconds") {
		t.Errorf("name %q, console %q", m.name, &m.console)
	}
}

// The distribution, what is said of default, and what is said by the name, are one user; each password counts once.
func TestTheDefaultUserIsMadeOfAllThatIsSaid(t *testing.T) {
	tools := []string{"useradd", "usermod", "groupadd", "chpasswd", "sudo"}
	for _, c := range []struct {
		name, users string
		want        []string
	}{
		{"by its name", "[default, {name: debian, groups: [docker], shell: /bin/zsh, uid: 1500}]", []string{"groupadd docker",
			"useradd --shell /bin/bash --comment debian --uid 1500 --groups docker,adm --create-home -- debian", "usermod --lock debian"}},
		{"by the word default", "[{name: default, groups: [docker], passwd: $6$x, lock_passwd: false}]", []string{"groupadd docker",
			"useradd --shell /bin/bash --comment debian --groups docker --create-home -- debian", "chpasswd -e <debian:$6$x"}},
		{"not at all", "[{name: debian, groups: [docker]}]", []string{"groupadd docker", "useradd --groups docker --create-home -- debian", "usermod --lock debian"}},
		{"a hash wins over a text, and what is for a new user is not set where there is one", "[{name: eve, passwd: $6$x, hashed_passwd: $6$y, plain_text_passwd: z, lock_passwd: false}]",
			[]string{"chpasswd <eve:z", "chpasswd -e <eve:$6$y"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "debian", tools...)
			m.put("bin/bash", "")
			if got := m.boot("i-1", "#cloud-config\nusers: "+c.users+"\n"); len(got.Troubles) > 0 || !slices.Equal(m.calls, c.want) {
				t.Errorf("got\n%s\nwant\n%s\ntroubles %q", strings.Join(m.calls, "\n"), strings.Join(c.want, "\n"), got.Troubles)
			}
		})
	}
	m := newMachine(t, "ichiro")
	m.put("etc/shadow", "root::1:0:99999:7:::\n")
	m.boot("i-1", "#cloud-config\nusers: [{name: default, ssh_authorized_keys: [ssh-rsa DDDD d]}]\n")
	if got := m.read("root/.ssh/authorized_keys"); !strings.Contains(got, "ssh-rsa DDDD d") || !strings.Contains(got, "walker") {
		t.Errorf("root's keys are %q", got)
	}
	if got := m.read("etc/shadow"); got != "root::1:0:99999:7:::\n" {
		t.Errorf("root is locked out: %q", got)
	}
}

func TestDirectivesWhereThereAreNoTools(t *testing.T) {
	m := newMachine(t, "ichiro")
	got := m.boot("i-1", "#cloud-config\nusers:\n- {name: bob, groups: adm, uid: 1500, passwd: $6$x, lock_passwd: false, ssh_authorized_keys: [k]}\n- ann\ngroups: [crew: [bob, nobody]]\npackages: [jq]\nswap: {size: 1M}\n"+
		"timezone: Mars/Base\nmounts: [[vdz, /x]]\nrumcmd: []\n")
	want := []string{"directive rumcmd (line 10) is not known (is runcmd meant?): nothing is done with it", "mounts: there is no device /dev/vdz", "swap: this system has no mkswap",
		"group crew: user nobody is not there", "timezone: this system has no /usr/share/zoneinfo/Mars/Base", "packages: this system has no apt-get, dnf, yum or apk; jq: not installed"}
	if !slices.Equal(got.Troubles, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got.Troubles, "\n"), strings.Join(want, "\n"))
	}
	for name, want := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\neve:x:1000:1000::/home/eve:/bin/sh\nbob:x:1500:1500::/home/bob:/bin/sh\nann:x:1002:1002::/home/ann:/bin/sh\n",
		"etc/group":  "root:x:0:\nadm:x:4:bob\neve:x:1000:\ncrew:x:1001:bob\nbob:x:1500:\nann:x:1002:\n",
		"etc/shadow": "bob:$6$x:20833:0:99999:7:::\nann:!:20833:0:99999:7:::\n",
	} {
		if got := m.read(name); got != want {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
	for _, text := range want { // each place that people look at
		for _, file := range []string{"var/log/cloud-init.log", "run/cloud-init/status.json", "run/cloud-init/result.json"} {
			if !strings.Contains(m.read(file), text) {
				t.Errorf("%s does not say %q", file, text)
			}
		}
		if !strings.Contains(m.console.String(), "ichiro: trouble: "+text) {
			t.Errorf("the console does not say %q", text)
		}
	}
}

func TestScriptsThatFailAreTold(t *testing.T) {
	m := newMachine(t, "ichiro")
	got := m.boot("i-1", message("text/x-shellscript", "a", "#!/bin/sh\nexit 3\n", "text/x-shellscript", "b", "#!/no/such/shell\n", "text/x-shellscript", "c", event("c"), "text/x-shellscript", "d", "echo no mark\n"))
	want := []string{"d: the script does not begin with #!: nothing may stand before it, no white space either", "script a ended with exit code 3",
		"script b could not be run: fork/exec " + m.root + "/var/lib/cloud/instances/i-1/scripts/b: no such file or directory"}
	if !slices.Equal(got.Troubles, want) || m.events() != "c" {
		t.Errorf("got\n%s\nwant\n%s\nand c to run", strings.Join(got.Troubles, "\n"), strings.Join(want, "\n"))
	}
}

// The process is killed by its own script, as the kernel's memory killer or a loss of power would do it.
func TestAfterAKillWhatHadNotEndedRuns(t *testing.T) {
	if root := os.Getenv("PROVISION_ROOT"); root != "" {
		m := &machine{t: t, root: root, out: os.Stderr}
		m.boot("i-1", message("text/x-shellscript", "a", event("a"),
			"text/x-shellscript", "b", event("b")+"test -e $R/killed && exit\ntouch $R/killed\nkill -9 $PPID\nsleep 20\necho still >> $R/events\n",
			"text/x-shellscript", "c", event("c"),
			"text/cloud-config", "d", "write_files: [{path: /log, content: \"line\\n\", append: true}]\n"))
		return
	}
	m := newMachine(t, "ichiro")
	again := func() error {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAfterAKillWhatHadNotEndedRuns$")
		cmd.Env = append(os.Environ(), "PROVISION_ROOT="+m.root)
		return cmd.Run()
	}
	var exit *exec.ExitError
	if err := again(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("got %v; want a death by SIGKILL", err)
	}
	if got := m.events(); got != "a b" {
		t.Errorf("before the kill %q ran; want a b", got)
	}
	if m.read("run/cloud-init/result.json") != "" {
		t.Error("there is a result although it has not ended")
	}
	for _, want := range []string{"b c", ""} {
		if err := again(); err != nil {
			t.Fatal(err)
		}
		if got := m.events(); got != want {
			t.Errorf("after the kill %q ran; want %q", got, want)
		}
	}
	if got := m.read("log"); got != "line\n" {
		t.Errorf("a file that is appended to has %q", got)
	}
}

func TestAppendingThatWasInterruptedIsNotDoneTwice(t *testing.T) {
	m := newMachine(t, "ichiro")
	const config = "#cloud-config\nwrite_files: [{path: /log, content: \"line\\n\", append: true}]\n"
	m.boot("i-1", config)
	if err := os.Remove(filepath.Join(m.root, "var/lib/cloud/instances/i-1/sem/config_write_files")); err != nil { // as if killed before the mark
		t.Fatal(err)
	}
	m.boot("i-1", config)
	if got := m.read("log"); got != "line\n" {
		t.Errorf("got %q", got)
	}
}

func TestPackagesMayStartTheMachineAgainBeforeTheRest(t *testing.T) {
	m := newMachine(t, "debian", "apt-get", "useradd", "usermod")
	m.put("run/reboot-required", "")
	config := "#cloud-config\nusers: []\npackages: [linux-image]\npackage_reboot_if_required: true\nruncmd:\n- echo runcmd >> $R/events\n"
	if got := m.boot("i-1", config); got.Power == nil || m.events() != "" {
		t.Error("it does not start again before the commands")
	} else if err := got.Power(t.Context()); err != nil || m.calls[len(m.calls)-1] != "reboot" {
		t.Errorf("got %v, %v", m.calls, err)
	}
	if got := m.boot("i-1", config); got.Power != nil || len(m.calls) > 0 || m.events() != "runcmd" {
		t.Errorf("the second boot called %v", m.calls)
	}
}

func TestNothingSecretIsLogged(t *testing.T) {
	m := newMachine(t, "debian", "useradd", "usermod", "chpasswd", "apt-get")
	m.codes = map[string]int{"useradd": 1, "apt-get": 100, "chpasswd": 1}
	m.boot("i-1", "#cloud-config\nusers:\n- {name: bob, plain_text_passwd: hunter2, passwd: hunter2}\n- {name: eve, hashed_passwd: hunter2}\n"+
		"write_files: [{path: /etc, content: hunter2}, {path: /s, content: hunter2, encoding: b64}]\nruncmd: [[false, hunter2]]\nbootcmd: ['exit 1 # hunter2']\nchpasswd: {list: hunter2}\nx: hunter2\n")
	m.boot("i-2", "hunter2\n")
	m.boot("i-3", "#cloud-config\nhunter2\n")
	m.boot("i-4", "#cloud-config\na: hunter2: b\n")
	m.boot("i-5", "#include\nhttps://b/hunter2.sh?hunter3\n")
	for _, text := range []string{m.read("var/log/cloud-init.log"), m.read("run/cloud-init/status.json"), m.console.String()} {
		text = strings.ReplaceAll(text, "https://b/hunter2.sh", "")
		if at := strings.Index(text, "hunter"); at >= 0 {
			t.Errorf("a log says %q", text[max(0, at-80):at+10])
		}
	}
}

func TestTheImagesOwnConfigIsBelowTheUsers(t *testing.T) {
	m := newMachine(t, "ichiro")
	m.put("etc/ichiro/provision.d/10-a.cfg", "hostname: image\nruncmd:\n- echo image >> $R/events\n")
	m.put("etc/ichiro/provision.d/20-b.cfg", "hostname: later\n")
	m.boot("i-1", "")
	if got := m.events(); got != "image" || m.name != "later" {
		t.Errorf("without user data: %q, %q", got, m.name)
	}
	m.boot("i-2", "#cloud-config\nruncmd:\n- echo user >> $R/events\n")
	if got := m.events(); got != "user" || m.name != "later" {
		t.Errorf("with user data: %q, %q", got, m.name)
	}
}

func TestAHomeThatLeadsElsewhereIsNotFollowed(t *testing.T) {
	m := newMachine(t, "ichiro")
	outside := filepath.Join(t.TempDir(), "outside")
	for _, err := range []error{os.MkdirAll(outside, 0o755), os.MkdirAll(filepath.Join(m.root, "home/eve"), 0o755), os.Symlink(outside, filepath.Join(m.root, "home/eve/.ssh"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := m.boot("i-1", "#cloud-config\nusers: [{name: eve, ssh_authorized_keys: [k]}]\n")
	if list, err := os.ReadDir(outside); err != nil || len(list) > 0 || len(got.Troubles) != 1 {
		t.Errorf("outside has %v, %v; troubles %q", list, err, got.Troubles)
	}
}

// `cloud-init status` is asked what it makes of our files.
func TestCloudInitReadsOurStatus(t *testing.T) {
	const packages = "/usr/local/lib/ichiro/cloud-init/usr/lib/python3/dist-packages"
	if _, err := os.Stat(packages); err != nil {
		t.Skip("no cloud-init to ask: deploy/scripts/needs test unpacks it")
	}
	for _, c := range []struct{ name, userData, status, errors string }{
		{"all went well", "#!/bin/sh\n", "done", "[]"},
		{"a script failed", "#!/bin/sh\nexit 3\n", "error", "[script part-001 ended with exit code 3]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "ichiro")
			m.boot("i-1", c.userData)
			cmd := exec.Command("/usr/bin/python3", "-c", `
import json, sys, types
from cloudinit.cmd import status
s = status.get_status_details(types.SimpleNamespace(run_dir=sys.argv[1]))
print(json.dumps({"status": s.status.value, "errors": s.errors, "datasource": s.datasource}))`, filepath.Join(m.root, "run/cloud-init"))
			cmd.Env = append(os.Environ(), "PYTHONPATH="+packages)
			answer, err := cmd.CombinedOutput()
			var got struct {
				Status, DataSource string
				Errors             []string
			}
			if err != nil || json.Unmarshal(answer, &got) != nil {
				t.Fatalf("%v\n%s", err, answer)
			}
			if got.Status != c.status || fmt.Sprint(got.Errors) != c.errors || got.DataSource != "ec2" {
				t.Errorf("got %+v; want %s and %s", got, c.status, c.errors)
			}
		})
	}
}

func FuzzRun(f *testing.F) {
	f.Add([]byte(everything()))
	f.Add([]byte(whole))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := newMachine(t, "debian", "useradd", "apt-get")
		s := m.system()
		s.Commands = deaf{m}
		if _, err := Run(t.Context(), s, Instance{ID: "i-1", UserData: raw, Data: func(context.Context) (*yaml.Value, error) { return &yaml.Value{Kind: yaml.Map}, nil }}); err != nil {
			t.Error(err)
		}
	})
}

// deaf runs nothing: what a fuzzer writes is no script to run.
type deaf struct{ *machine }

func (d deaf) Run(context.Context, Command) (int, error) { return 0, nil }
