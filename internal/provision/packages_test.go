package provision

import (
	"slices"
	"strings"
	"testing"
)

func TestPackagesByEachManager(t *testing.T) {
	const config = "#cloud-config\nusers: []\npackage_update: true\npackage_upgrade: true\npackages: [jq, [php, '8.1'], httpd]\n"
	const apt = "apt-get -y -q -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300 "
	for _, c := range []struct {
		name  string
		tools []string
		want  []string
	}{
		{"apt", []string{"apt-get"}, []string{apt + "update", apt + "dist-upgrade", apt + "install jq php=8.1 httpd"}},
		{"dnf, beside a yum that leads to it", []string{"dnf", "yum"}, []string{"dnf -y makecache", "dnf -y upgrade", "dnf -y install jq php-8.1 httpd"}},
		{"yum", []string{"yum"}, []string{"yum -y makecache", "yum -y update", "yum -y install jq php-8.1 httpd"}},
		{"apk", []string{"apk"}, []string{"apk update", "apk upgrade", "apk add jq php=8.1 httpd"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "some", c.tools...)
			if got := m.boot("i-1", config); len(got.Troubles) > 0 || !slices.Equal(m.calls, c.want) {
				t.Errorf("got\n%s\nwant\n%s\ntroubles %q", strings.Join(m.calls, "\n"), strings.Join(c.want, "\n"), got.Troubles)
			}
			m.codes = map[string]int{strings.Fields(c.want[0])[0]: 100}
			got := m.boot("i-2", config)
			for k, what := range []string{"update", "upgrade", "install jq"} { // one that fails stops no other
				if len(got.Troubles) != 3 || !strings.Contains(got.Troubles[k], " "+what) || !strings.Contains(got.Troubles[k], "exit code 100") {
					t.Errorf("of what failed is told %q", got.Troubles)
					break
				}
			}
		})
	}
}

func TestWhatBringsPackagesUpToDate(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{"packages: []", ""},
		{"repo_update: false", ""},
		{"repo_update: true", "makecache"},
		{"apt_update: yes", "makecache"},
		{"package_update: 1", "makecache"},
		{"repo_upgrade: security", "makecache upgrade"},
		{"repo_upgrade: none", ""},
		{"package_upgrade: true", "makecache upgrade"},
		{"packages: jq", "makecache install"}, // the lists, too: an image's are old
	} {
		m := newMachine(t, "some", "dnf")
		m.boot("i-1", "#cloud-config\nusers: []\n"+c.config+"\n")
		var got []string
		for _, call := range m.calls {
			got = append(got, strings.Fields(call)[2])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, want %q", c.config, got, c.want)
		}
	}
}
