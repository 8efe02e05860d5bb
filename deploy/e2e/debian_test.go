//go:build vm

package e2e

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// debian registers a whole Debian 12 with stock cloud-init, as an operator registers an image of his own: a ramdisk in the
// pool, the small image's kernel, and a request. What it is made of is kept for the next run.
func (h *host) debian(t *testing.T) string {
	t.Helper()
	small, err := h.ec2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{h.image(t)}})
	if err != nil {
		t.Fatal(err)
	}
	kernels, err := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if err != nil || len(kernels) == 0 {
		t.Fatalf("no cloud kernel: %v", err)
	}
	release := strings.TrimPrefix(filepath.Base(slices.Max(kernels)), "vmlinuz-")
	const dir = "/var/tmp/ichiro-guest"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "debian.ramdisk")
	if out, err := exec.CommandContext(t.Context(), "../scripts/guest-image", bin, release, file).CombinedOutput(); err != nil {
		t.Fatalf("make the guest: %v\n%s", err, out)
	}
	defer os.Remove(file) // its packages are what takes long, and they stay
	location, err := exec.CommandContext(t.Context(), filepath.Join(bin, "ichiro"), "image", "--state", h.state(), "add", "ramdisk", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	register := func(in *ec2.RegisterImageInput) *string {
		t.Helper()
		out, err := h.ec2.RegisterImage(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := h.ec2.DeregisterImage(noCancel(t), &ec2.DeregisterImageInput{ImageId: out.ImageId}); err != nil {
				t.Error(err)
			}
		})
		return out.ImageId
	}
	ramdisk := register(&ec2.RegisterImageInput{Name: aws.String(unique("debian-ramdisk")), ImageLocation: aws.String(strings.TrimSpace(string(location)))})
	return *register(&ec2.RegisterImageInput{Name: aws.String(unique("debian")), KernelId: small.Images[0].KernelId, RamdiskId: ramdisk})
}

// message is user data of several parts, packed.
func message(t *testing.T, parts ...[2]string) string {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	var body bytes.Buffer
	m := multipart.NewWriter(&body)
	for _, p := range parts {
		w, err := m.CreatePart(textproto.MIMEHeader{"Content-Type": {p[0]}})
		if err == nil {
			_, err = w.Write([]byte(p[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintf(z, "Content-Type: multipart/mixed; boundary=%q\nMIME-Version: 1.0\n\n", m.Boundary())
	z.Write(body.Bytes())
	if err := errors.Join(m.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return base64Of(packed.String())
}

// repository is commands that make a source of packages in the guest: one that is installed in an older version, one that is not.
const repository = `set -e
mkdir -p /srv/repo && cd /srv/repo
: >Packages
for p in old:1 old:2 new:1; do
  n=${p%:*} v=${p#*:}
  mkdir -p $p/DEBIAN
  printf 'Package: ichiro-%s\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: for a test\n' $n $v >$p/DEBIAN/control
  dpkg-deb -b $p $n$v.deb >/dev/null
  { cat $p/DEBIAN/control; echo "Filename: ./$n$v.deb"; echo "Size: $(stat -c %s $n$v.deb)"; echo "SHA256: $(sha256sum <$n$v.deb | cut -d' ' -f1)"; echo; } >>Packages
done
dpkg -i old1.deb >/dev/null
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d
echo 'deb [trusted=yes] file:/srv/repo ./' >/etc/apt/sources.list
`

// TestDebianWithCloudInit boots a guest that knows nothing of ichiro but what a package would have put there: stock cloud-init is the
// judge of the metadata, and stock managers of networks are what a plugged interface must get on with.
func TestDebianWithCloudInit(t *testing.T) {
	if os.Getenv("ICHIRO_DEBIAN") == "" {
		t.Skip("a Debian is bootstrapped and boots under TCG, which takes five minutes: make debian runs it")
	}
	h := the(t)
	image := h.debian(t)
	key := unique("key")
	if _, err := h.ec2.CreateKeyPair(t.Context(), &ec2.CreateKeyPairInput{KeyName: &key}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.ec2.DeleteKeyPair(noCancel(t), &ec2.DeleteKeyPairInput{KeyName: &key}) })
	indent := func(s string) string { return "    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") }
	data := message(t,
		[2]string{"text/cloud-boothook", "#cloud-boothook\n#!/bin/sh\necho boothook >>/run/order\n"},
		[2]string{"text/cloud-config", "#cloud-config\nbootcmd:\n  - |\n" + indent(repository) + `
repo_update: true
repo_upgrade: all
packages:
  - ichiro-new
write_files:
  - {path: /run/written, content: "written\n", permissions: '0640'}
runcmd:
  - [sh, -c, 'echo runcmd $(dpkg-query -W -f ''${Version}'' ichiro-old ichiro-new) >>/run/order']
  - echo runcmd as text >>/run/order
`},
		[2]string{"text/jinja2", "## template: jinja\n#cloud-config\nmerge_how: 'dict(recurse_array)+list(append)'\nfinal_message: 'over for {{ v1.instance_id }}'\n"},
		[2]string{"text/cloud-config-archive", "#cloud-config-archive\n- \"#!/bin/sh\\necho archive >>/run/order\\n\"\n"},
		[2]string{"text/x-include-url", "#include\nhttp://169.254.169.254/latest/meta-data/tags/instance/included\n"},
		[2]string{"text/x-shellscript-per-boot", "#!/bin/sh\necho per boot >>/run/order\n"},
		[2]string{"text/x-shellscript", "#!/bin/bash\necho script of $(whoami) >>/run/order\n"},
		// What sees a card sooner than anything: does the metadata know it then?
		[2]string{"text/cloud-boothook", `#!/bin/sh
cat >/run/systemd/system/seen@.service <<'X'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'curl -sf http://169.254.169.254/latest/meta-data/network/interfaces/macs/$(cat /sys/class/net/%i/address)/device-number >/run/seen-%i'
X
echo 'ACTION!="remove", SUBSYSTEM=="net", TAG+="systemd", ENV{SYSTEMD_WANTS}+="seen@%k.service"' >/run/udev/rules.d/99-seen.rules
systemctl daemon-reload
udevadm control --reload
`},
	)
	h.bucket(t, "debian-open")
	h.bucket(t, "debian-shut")
	profile := unique("debian")
	t.Cleanup(func() {
		_, a := h.iam.RemoveRoleFromInstanceProfile(noCancel(t), &iam.RemoveRoleFromInstanceProfileInput{InstanceProfileName: &profile, RoleName: &profile})
		_, b := h.iam.DeleteInstanceProfile(noCancel(t), &iam.DeleteInstanceProfileInput{InstanceProfileName: &profile})
		_, c := h.iam.DeleteRolePolicy(noCancel(t), &iam.DeleteRolePolicyInput{RoleName: &profile, PolicyName: aws.String("own")})
		_, d := h.iam.DeleteRole(noCancel(t), &iam.DeleteRoleInput{RoleName: &profile})
		if err := errors.Join(a, b, c, d); err != nil {
			t.Error(err)
		}
	})
	h.profile(t, profile)
	if _, err := h.iam.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: &profile, PolicyName: aws.String("own"), PolicyDocument: aws.String(
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:ListAllMyBuckets","Resource":"*"},` +
			`{"Effect":"Allow","Action":"s3:*","Resource":["arn:aws:s3:::debian-open","arn:aws:s3:::debian-open/*"]}]}`)}); err != nil {
		t.Fatal(err)
	}
	i := h.launch(t, func(in *ec2.RunInstancesInput) {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: &profile}
		in.ImageId, in.InstanceType, in.KeyName, in.UserData = &image, types.InstanceTypeT2Medium, &key, &data
		in.MetadataOptions = &types.InstanceMetadataOptionsRequest{InstanceMetadataTags: types.InstanceMetadataTagsStateEnabled}
		in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: []types.Tag{
			{Key: aws.String("included"), Value: aws.String("#!/usr/bin/env -S touch /run/included")}}}}
		in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0), SecondaryPrivateIpAddressCount: aws.Int32(2)}}
	})
	id := *i.InstanceId
	t.Cleanup(func() {
		if t.Failed() {
			h.screen(t, id)
		}
	})
	t.Logf("its agent was there after %v", h.online(t, id))
	took := await(t, "cloud-init's end", func() error {
		text := h.sh(t, id, "cloud-init status --long; systemctl is-system-running || true")
		if strings.Contains(text, "status: running") || strings.Contains(text, "status: not run") || strings.HasSuffix(text, "starting") {
			return errors.New(text)
		}
		return nil
	})
	t.Logf("and cloud-init was done %v later", took)

	t.Run("cloud-init is content", func(t *testing.T) {
		if got := h.sh(t, id, "cloud-init status --long"); !strings.Contains(got, "status: done") || !strings.Contains(got, "DataSourceEc2Local") {
			t.Errorf("got %s", got)
		}
		if got := h.sh(t, id, "grep -E 'WARN|ERROR|CRITICAL|Traceback' /var/log/cloud-init.log /var/log/cloud-init-output.log || true"); got != "" {
			t.Errorf("its logs have\n%s", got)
		}
		if got := h.sh(t, id, "systemctl list-units --failed --no-legend; journalctl -b -p warning -u 'ichiro-*' --no-pager -q || true"); got != "" {
			t.Errorf("in the guest failed\n%s", got)
		}
	})
	t.Run("user data of every kind was carried out", func(t *testing.T) {
		want := []string{"boothook", "runcmd 12", "runcmd as text", "archive", "per boot", "script of root"}
		order := h.sh(t, id, "cat /run/order")
		for _, w := range want {
			if !strings.Contains(order, w) {
				t.Errorf("%q is not in\n%s", w, order)
			}
		}
		if got := h.sh(t, id, "cat /run/written; stat -c %a /run/written; test -e /run/included && grep -o 'over for .*' /var/log/cloud-init-output.log"); got != "written\n640\nover for "+id {
			t.Errorf("got %s", got)
		}
	})
	t.Run("the guest is set up as the metadata says", func(t *testing.T) {
		if got := h.sh(t, id, "hostname; cut -d' ' -f1,3 /home/debian/.ssh/authorized_keys"); !strings.HasPrefix(got, "ip-172-31-") || !strings.HasSuffix(got, key) {
			t.Errorf("got %s", got)
		}
		got := h.sh(t, id, "ip -o addr show dev $(ip -o route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/;q')")
		for _, a := range i.NetworkInterfaces[0].PrivateIpAddresses {
			if !strings.Contains(got, " "+*a.PrivateIpAddress+"/") {
				t.Errorf("%s is not in\n%s", *a.PrivateIpAddress, got)
			}
		}
	})

	t.Run("it has sessions", func(t *testing.T) {
		out, code := h.shell(t, id, "echo I am $USER at $HOME in $0; test -t 0 && echo on a terminal; setsid -f sleep 98765; exit 23\n")
		if code != 23 || !strings.Contains(out, "I am root at /root in -bash") || !strings.Contains(out, "on a terminal") {
			t.Errorf("a shell has code %d and says %q", code, out)
		}
		if got := h.sh(t, id, "pgrep -f 'sleep 9876[5]' || echo nothing"); got != "nothing" {
			t.Errorf("of the shell is left %s", got)
		}
		h.sh(t, id, "systemd-run --unit served --working-directory /run python3 -m http.server --bind 127.0.0.1 8099")
		if got := h.forward(t, id, "8099", "/written"); got != "written\n" {
			t.Errorf("through a port comes %q", got)
		}
	})

	// Nobody has typed a key, an endpoint or a region; the CLI is Debian's, which knows no endpoint_url.
	t.Run("plain aws s3 works as far as the role allows", func(t *testing.T) {
		got := h.sh(t, id, `aws --version
root() { env -i PATH="$PATH" HOME=/root aws "$@" 2>&1; }
root s3 ls
echo hello >/run/hello && root s3 cp --no-progress /run/hello s3://debian-open/hello
su - debian -c 'aws s3 ls s3://debian-open; aws s3 cp s3://debian-open/hello -' 2>&1
root s3 rm s3://debian-open/hello
root s3 ls s3://debian-shut || echo refused with $?`)
		for _, want := range []string{`aws-cli/2\.9\.19 `, ` debian-open\n.* debian-shut\n`, `upload: \S*hello to s3://debian-open/hello\n`, ` 6 hello\nhello\n`, `delete: s3://debian-open/hello\n`, `AccessDenied.*s3:ListBucket`, `refused with 254$`} {
			if !regexp.MustCompile(want).MatchString(got) {
				t.Errorf("%q is not in\n%s", want, got)
			}
		}
	})
	t.Run("its identity document verifies by what it has", func(t *testing.T) {
		got := h.sh(t, id, `set -e; cd /run
I=http://169.254.169.254/latest/dynamic/instance-identity
for p in document signature pkcs7 rsa2048; do curl -sf $I/$p >$p; done
openssl x509 -pubkey -noout -in /etc/ichiro/identity.pem >key
base64 -d signature >signature.bin
openssl dgst -sha256 -verify key -signature signature.bin document
for p in pkcs7 rsa2048; do
  (echo "-----BEGIN PKCS7-----"; cat $p; echo; echo "-----END PKCS7-----") >$p.pem
  openssl smime -verify -in $p.pem -inform PEM -content document -certfile /etc/ichiro/identity.pem -noverify 2>&1 >said
  cmp said document
done`)
		if want := "Verified OK"; !strings.HasPrefix(got, want) || strings.Count(got, "Verification successful") != 2 {
			t.Errorf("got %s", got)
		}
	})

	peer := *h.guest(t, nil).InstanceId
	p := h.plugs(t, id)
	const one = cloud.InterfaceID("eni-0bbbbbbbbbbbbbbb1")
	const addr = "172.31.9.41" // which it keeps when it is detached
	plug := func(t *testing.T) {
		p.t = t
		defer func() {
			if t.Failed() {
				out := h.result(t, id, h.send(t, id, "ip addr; ip rule; systemctl status 'ichiro-*' --no-pager; journalctl -b -u 'ichiro-*' --no-pager -n 40"))
				t.Logf("in the guest:\n%s", aws.ToString(out.StandardOutputContent))
			}
		}()
		network := func() string { // without what counts down
			return regexp.MustCompile(`(valid_lft|expires|pref) \S+( preferred_lft \S+)?`).ReplaceAllString(h.network(t, id), "")
		}
		before := network()
		p.attach(one, 1, addr)
		p.attached(one, true)
		t.Logf("it answers after another %v", h.answers(t, peer, addr))
		name := h.sh(t, id, "basename $(dirname $(grep -l 02:77:77:77:00:31 /sys/class/net/*/address))")
		if got := h.sh(t, id, "until test -s /run/seen-"+name+"; do sleep 0.1; done; cat /run/seen-"+name); got != "1" {
			t.Errorf("when the device came, the metadata had the number %q", got)
		}
		p.detach(one, cloud.DetachAsked)
		await(t, "the guest's network as before", func() error {
			if now := network(); now != before {
				return fmt.Errorf("before\n%s\nnow\n%s", before, now)
			}
			return nil
		})
		h.silent(t, peer, addr)
	}
	t.Run("a plugged interface works beside networkd", plug)
	t.Run("the udev rule serves guests without our agent", func(t *testing.T) {
		// The agent is what runs the commands of this test, so it stays, and leaves the network to the other.
		h.sh(t, id, "mkdir -p /run/systemd/system/ichiro-runcmd.service.d && printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/ichiro-runcmd --network=false\\n' "+
			">/run/systemd/system/ichiro-runcmd.service.d/test.conf && systemctl daemon-reload && systemd-run --on-active=0.1 systemctl restart ichiro-runcmd")
		await(t, "the network's own service", func() error {
			out := h.result(t, id, h.send(t, id, "systemctl is-active ichiro-network && grep -q network=false /proc/$(systemctl show -P MainPID ichiro-runcmd)/cmdline"))
			if out.Status != "Success" { // some of these end with the agent that runs them
				return errors.New(aws.ToString(out.StandardOutputContent))
			}
			return nil
		})
		plug(t)
	})
}

// screen shows the end of what a guest has written to its console.
func (h *host) screen(t *testing.T, id string) {
	data, _ := os.ReadFile(h.run("instances", id, "console.log"))
	t.Logf("%s", data[max(0, len(data)-8000):])
}
