package provision

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const awsText = "[default]\nregion = ichiro-1\nendpoint_url = http://169.254.169.254:8773\n"

func TestClientsOfAWSFindTheAPI(t *testing.T) {
	m := newMachine(t, "debian", "useradd", "usermod", "sudo")
	for _, home := range []string{"root", "home/debian", "home/web"} {
		if err := os.MkdirAll(filepath.Join(m.root, home), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.put("home/eve/.aws/config", "hers")
	const config = "#cloud-config\nusers: [default, web, eve, {name: nobody, no_create_home: true}]\nruncmd: [cat $R/root/.aws/config >> $R/events]\n"
	if got := m.boot("i-1", config); len(got.Troubles) > 0 {
		t.Errorf("got %q", got.Troubles)
	}
	for name, want := range map[string]string{"root": awsText, "home/debian": awsText, "home/web": awsText, "home/eve": "hers", "home/nobody": ""} {
		if got := m.read(name + "/.aws/config"); got != want {
			t.Errorf("%s has\n%q\nwant\n%q", name, got, want)
		}
	}
	if got := m.events(); got != strings.Join(strings.Fields(awsText), " ") {
		t.Errorf("a command of the user's found %q", got)
	}
	if !slices.Contains(m.owners, "/home/web/.aws 1001:1001") || !slices.Contains(m.owners, "/home/web/.aws/.config.new 1001:1001") {
		t.Errorf("owners are %q", m.owners)
	}
}

func TestAnOldCLIIsTaughtTheEndpoint(t *testing.T) {
	const plugins = "\n[plugins]\ncli_legacy_plugin_path = /usr/share/ichiro/awscli\nendpoint = ichiro_endpoint\n"
	for _, c := range []struct {
		name, version string
		module        bool
		other         string
		want          string
	}{
		{"Debian 12's", "2.9.19", true, "", awsText + plugins},
		{"Debian 12's, without the module", "2.9.19", false, "", awsText},
		{"a later one", "2.23.6", true, "", awsText},
		{"one of the first line", "1.45.11", true, "", awsText},
		{"Debian 12's, and another before it", "2.9.19", true, "usr/local/bin/aws", awsText},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "debian", "useradd", "usermod", "sudo")
			m.put("root/.profile", "")
			m.put("usr/lib/python3/dist-packages/awscli/__init__.py", "import os\n\n__version__ = '"+c.version+"'\n")
			if c.module {
				m.put(awsModule, "")
			}
			if c.other != "" {
				m.put(c.other, "")
			}
			m.boot("i-1", "#cloud-config\nusers: []\n")
			if got := m.read("root/.aws/config"); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}
