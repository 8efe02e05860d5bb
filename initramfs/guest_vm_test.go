//go:build vm

package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/vmtest"
)

const script = `#!/bin/sh
echo "I am $(hostname) with $(wc -l < /proc/modules) modules"
touch /tmp/was-here
exit 3
`

func TestGuestBecomesItsInstance(t *testing.T) {
	t.Parallel()
	h := newHost(t, script)
	g := h.guest(t, "ichiro.shell ichiro.trace")
	g.Expect(`ichiro: init at [0-9.]+`)
	g.Expect(`ichiro: network up eth0 172\.31\.0\.20/20 at`)
	g.ExpectAll(`I am ip-172-31-0-20 with \d+ modules`, `ichiro: user-data finished rc=3 at`, `ichiro: settled`)
	g.Send("")
	g.Expect(`# `)
	for _, c := range []struct{ name, command, want string }{
		{"the script's output is in the log", "cat /var/log/cloud-init-output.log", `(?s)I am ip-172-31-0-20.*rc=3`},
		{"the script's exit code is in the result", "cat /run/cloud-init/result.json", `"exit_code": 3`},
		{"the script ran to its end", "ls /tmp/was-here", `was-here`},
		{"the ssh key is there and private", "ls -l /root/.ssh/authorized_keys; cat /root/.ssh/authorized_keys", `(?s)-rw-------.*ssh-ed25519 AAAAC3Nza test`},
		{"the host name is the metadata's", "hostname; uname -n", `(?s)ip-172-31-0-20.*ip-172-31-0-20`},
		{"the network has the DHCP answer's size", "cat /sys/class/net/eth0/mtu", `1400`},
		{"the modules of absent devices are loaded for later", "cat /proc/modules", `(?s)virtio_blk.*`},
		{"the power button is heard", "ls /dev/input", `event0`},
		{"control groups are there", "cat /sys/fs/cgroup/cgroup.controllers", `memory`},
		{"routes are those of option 121", "cat /proc/net/route", `(?s)eth0\s+00000000\s+01001FAC.*eth0\s+0008090A\s+09001FAC.*eth0\s+FEA9FEA9\s+00000000`},
	} {
		out, code := g.Run(c.command)
		if code != "0" || !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s: %s gave code %s and\n%s\nwant code 0 and %s", c.name, c.command, code, out, c.want)
		}
	}
	g.Monitor("system_powerdown")
	g.Expect(`ichiro: going down \(power button\)`)
	g.Expect(`ichiro: down`)
	if code := g.Wait(); code != 0 {
		t.Errorf("QEMU ended with code %d, want 0", code)
	}
}

// What is more than a script is the agent's to carry out.
func TestGuestIsProvisionedByItsAgent(t *testing.T) {
	t.Parallel()
	h := newHost(t, "#cloud-config\npackages: [nginx]\nrumcmd: [a]\nusers: [{name: bob, uid: 1500}]\nruncmd:\n- [echo, \"it's done\"]\n- grep bob /etc/passwd\n")
	b := build(t, "zstd", "../runcmd")
	g := vmtest.Start(t, vmtest.Config{Kernel: b.kernel, Ramdisk: b.ramdisk, CommandLine: b.commandLine + " ichiro.shell",
		Args: h.wire.Args(), Files: []*os.File{h.wire.Tap}})
	g.ExpectAll(`trouble: directive rumcmd \(line 3\) is not known \(is runcmd meant\?\)`, `trouble: packages: this system has no apt-get, dnf, yum or apk; nginx: not installed`,
		`it's done`, `bob:x:1500:1500`, `ichiro: user-data finished rc=1`)
	g.Send("")
	g.Expect(`# `)
	for _, c := range []struct{ name, command, want string }{
		{"the result has the troubles", "cat /run/cloud-init/result.json", `(?s)rumcmd.*nginx`},
		{"the output is in its log", "cat /var/log/cloud-init-output.log", `(?s)it's done.*bob:x:1500`},
		{"the log has both", "cat /var/log/cloud-init.log", `(?s)ERROR.: directive rumcmd.*ERROR.: packages.*script runcmd ended well`},
	} {
		if out, code := g.Run(c.command); code != "0" || !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s: code %s and\n%s\nwant %s", c.name, code, out, c.want)
		}
	}
}

func TestGuestNamesWhatItDoesNotHandle(t *testing.T) {
	t.Parallel()
	h := newHost(t, "#cloud-config\npackages: [nginx]\n")
	g := h.guest(t, "ichiro.shell") // without an agent
	g.Expect(`trouble: user data of kind "cloud-config" needs /usr/bin/ichiro-runcmd`)
	g.Send("")
	g.Expect(`# `)
	out, _ := g.Run("cat /run/cloud-init/result.json")
	if !strings.Contains(out, "needs /usr/bin/ichiro-runcmd") {
		t.Errorf("result.json is\n%s\nwant the sentence of the console in it", out)
	}
}

func TestGuestWithoutNetworkStaysUp(t *testing.T) {
	t.Parallel()
	b := build(t, "none", "")
	g := start(t, b, "ichiro.shell")
	g.Expect(`ichiro: trouble: no network interface`)
	g.Send("")
	g.Expect(`# `)
	if out, code := g.Run("sh -c 'exit 7'; echo $?"); code != "0" || !strings.Contains(out, "7") {
		t.Errorf("got %q, code %s; want 7, code 0", out, code)
	}
	g.Send("poweroff")
	if code := g.Wait(); code != 0 {
		t.Errorf("QEMU ended with code %d, want 0", code)
	}
}

func TestGuestStartsItsAgentAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	b := build(t, "zstd", "../runcmd")
	g := vmtest.Start(t, vmtest.Config{Kernel: b.kernel, Ramdisk: b.ramdisk, CommandLine: b.commandLine + " ichiro.shell ichiro.trace",
		Args: h.wire.Args(), Files: []*os.File{h.wire.Tap}})
	g.ExpectAll(`ichiro: user-data none`, `ichiro: agent started`, `ichiro: settled`)
	g.Send("")
	g.Expect(`# `)
	g.Send("kill -9 $(ps | grep '[i]chiro-runcmd' | sed 's/^ *//' | cut -d ' ' -f 1)")
	g.ExpectAll(`ichiro: trouble: agent ended rc=137`, `rc=137(?s:.*)ichiro: agent started`)
	g.Send("reboot")
	g.Expect(`ichiro: going down`)
	if code := g.Wait(); code != 0 { // -no-reboot makes an end of it
		t.Errorf("QEMU ended with code %d, want 0", code)
	}
}

// A guest that gets no address must still hear its power button, and take the address when it comes.
func TestGuestWaitsForItsServer(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	h.silent.Store(true)
	g := h.guest(t, "ichiro.trace")
	g.Expect(`ichiro: settled`)
	h.silent.Store(false)
	g.ExpectAll(`ichiro: network up`, `ichiro: user-data none`)
	g.Monitor("system_powerdown")
	if code := g.Wait(); code != 0 {
		t.Errorf("QEMU ended with code %d, want 0", code)
	}
}
