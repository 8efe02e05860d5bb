package provision

import (
	"slices"
	"strings"
	"testing"
)

func TestNamesOfTheHost(t *testing.T) {
	const usual = "127.0.0.1 localhost\n"
	for _, c := range []struct{ name, config, host, hosts string }{
		{"without a word the metadata's", "{}", "ip-10-0-0-5", usual},
		{"a short name leaves the full one", "hostname: web\nmanage_etc_hosts: true", "web", usual + "127.0.1.1 ip-10-0-0-5.ec2.internal web\n"},
		{"a name with points is the full one", "hostname: web.example.org\nmanage_etc_hosts: localhost", "web", usual + "127.0.1.1 web.example.org web\n"},
		{"the full name says the short one", "fqdn: web.example.org\nmanage_etc_hosts: template", "web", usual + "127.0.1.1 web.example.org web\n"},
		{"unless that is given", "fqdn: web.example.org\nhostname: www", "www", usual},
		{"the full name where it is preferred", "fqdn: web.example.org\nprefer_fqdn_over_hostname: true", "web.example.org", usual},
		{"which may be the metadata's", "hostname: web\nprefer_fqdn_over_hostname: true", "ip-10-0-0-5.ec2.internal", usual},
		{"a name that is preserved", "hostname: web\npreserve_hostname: true", "", usual},
		{"is in hosts, if that is asked for", "hostname: web\npreserve_hostname: true\nmanage_etc_hosts: true", "", usual + "127.0.1.1 ip-10-0-0-5.ec2.internal web\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "debian")
			m.put("etc/hosts", usual)
			m.boot("i-1", "#cloud-config\nusers: []\n"+c.config+"\n")
			if m.name != c.host || strings.TrimSpace(m.read("etc/hostname")) != c.host || m.read("etc/hosts") != c.hosts {
				t.Errorf("got %q, %q and hosts\n%s\nwant %q and\n%s", m.name, m.read("etc/hostname"), m.read("etc/hosts"), c.host, c.hosts)
			}
		})
	}
}

func TestTheFinalMessage(t *testing.T) {
	const when = "Fri, 15 Jan 2027 08:00:00 +0000"
	for _, c := range []struct {
		name, config, want string
		troubles           []string
	}{
		{"in dollars", `"\n $version at ${TIMESTAMP}: $DATASOURCE, $uptime s\n"`, "ichiro at " + when + ": DataSourceEc2, 7.25 s", nil},
		{"in braces", `"## template: jinja\n{{ version }} at {{TIMESTAMP}}, {{ uptime }}"`, "ichiro at " + when + ", 7.25", nil},
		{"of a name that is none", "done in $tmie", "done in $tmie", []string{"final_message: there is no $tmie"}},
		{"in braces of a name that is none", `"## template: jinja\n{{ tmie }}"`, "CI_MISSING_JINJA_VAR/tmie", []string{"final_message: there is no tmie"}},
		{"without a word", `""`, "ichiro: provisioned, up 7.25 seconds", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "ichiro")
			got := m.boot("i-1", "#cloud-config\nfinal_message: "+c.config+"\n")
			if lines := strings.Split(strings.TrimSpace(m.console.String()), "\n"); lines[len(lines)-1] != c.want || !slices.Equal(got.Troubles, c.troubles) {
				t.Errorf("got %q, troubles %q\nwant %q, %q", lines, got.Troubles, c.want, c.troubles)
			}
		})
	}
}
