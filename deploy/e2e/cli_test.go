//go:build vm

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// theCLIs are the AWS CLIs of this machine: the first in PATH, and Debian's, which knows no endpoint but by its option.
func theCLIs(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	if out, err := exec.Command("pyenv", "which", "aws").Output(); err == nil {
		found["the first in PATH"] = strings.TrimSpace(string(out))
	} else if path, err := exec.LookPath("aws"); err == nil {
		found["the first in PATH"] = path
	}
	const debian = "/usr/bin/aws"
	if _, err := os.Stat(debian); err == nil && found["the first in PATH"] != debian {
		found["Debian's"] = debian
	}
	if len(found) == 0 {
		t.Fatal("no AWS CLI: deploy/scripts/needs test installs one")
	}
	return found
}

// TestPlainCLI is what README promises of packaging/guest/ichiro-aws-config: afterwards nobody types an endpoint or a region.
func TestPlainCLI(t *testing.T) {
	h := the(t)
	h.bucket(t, "plain-one")
	for name, client := range theCLIs(t) {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			run := func(want string, more []string, argv ...string) {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
				cmd.Dir = home
				cmd.Env = append([]string{"PATH=" + filepath.Dir(client) + ":/usr/bin:/bin", "HOME=" + home, "AWS_PAGER=", "AWS_ACCESS_KEY_ID=" + h.key[0], "AWS_SECRET_ACCESS_KEY=" + h.key[1]}, more...)
				if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
					t.Errorf("%q: %v, got %q; want %q in it", argv, err, out, want)
				}
			}
			configure, err := filepath.Abs("../../packaging/guest/ichiro-aws-config")
			if err != nil {
				t.Fatal(err)
			}
			run("", nil, configure, h.url, h.region)
			if err := os.WriteFile(filepath.Join(home, "hello"), []byte("hello"), 0o644); err != nil {
				t.Fatal(err)
			}
			run(" plain-one", nil, client, "s3", "ls")
			run("upload: ./hello to s3://plain-one/hello", nil, client, "s3", "cp", "--no-progress", "hello", "s3://plain-one/hello")
			run("delete: s3://plain-one/hello", nil, client, "s3", "rm", "s3://plain-one/hello")
			// What is written once stays, and the variable goes before it, as in later CLIs.
			before, err := os.ReadFile(filepath.Join(home, ".aws/config"))
			run("", nil, configure, "http://127.0.0.1:1", h.region)
			if after, again := os.ReadFile(filepath.Join(home, ".aws/config")); err != nil || again != nil || string(after) != string(before) {
				t.Errorf("the configuration was\n%s\nand is\n%s, %v, %v", before, after, err, again)
			}
			if err := os.RemoveAll(filepath.Join(home, ".aws")); err != nil {
				t.Fatal(err)
			}
			run("", nil, configure, "http://127.0.0.1:1", h.region)
			run("172.31.0.0/16", []string{"AWS_ENDPOINT_URL=" + h.url}, client, "ec2", "describe-vpcs")
		})
	}
}
