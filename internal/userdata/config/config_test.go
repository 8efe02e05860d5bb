package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/userdata"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// decide reads one config and decides.
func decide(text string) (Plan, Report) {
	root, r := Merge([]userdata.Part{{Name: "part-001", Kind: userdata.CloudConfig, Body: []byte(text)}})
	p, more := Decide(root)
	r.Add(more)
	return p, r
}

// show prints of a plan what differs from the plan of nothing, as JSON, then the report.
func show(p Plan, r Report) string {
	usual, _ := Decide(&yaml.Value{Kind: yaml.Map})
	var b strings.Builder
	got, nothing := reflect.ValueOf(p), reflect.ValueOf(usual)
	for i := range got.NumField() {
		if !reflect.DeepEqual(got.Field(i).Interface(), nothing.Field(i).Interface()) {
			text, err := json.Marshal(thin(got.Field(i)))
			if err != nil {
				return err.Error()
			}
			b.WriteString(got.Type().Field(i).Name + " " + string(text) + "\n")
		}
	}
	for _, t := range r.Troubles {
		b.WriteString("! " + t + "\n")
	}
	for _, d := range r.Doubts {
		b.WriteString("? " + d + "\n")
	}
	return b.String()
}

// thin leaves the zero fields of structs out, and shows bytes as text.
func thin(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.Pointer:
		return thin(v.Elem())
	case v.Kind() == reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				m[v.Type().Field(i).Name] = thin(v.Field(i))
			}
		}
		return m
	case v.Type() == reflect.TypeFor[[]byte]():
		return string(v.Bytes())
	case v.Kind() == reflect.Slice:
		list := []any{}
		for i := range v.Len() {
			list = append(list, thin(v.Index(i)))
		}
		return list
	}
	return v.Interface()
}

func TestDecide(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a config of nothing", "#cloud-config\n{}\n", ""},
		{"the example of Amazon's blog", "repo_update: true\nrepo_upgrade: all\npackages:\n - httpd\n - [php, 8.1-2]\nruncmd:\n - service httpd start\n",
			`Runcmd "#!/bin/sh\nservice httpd start\n"` + "\nUpdate true\nUpgrade true\n" +
				`Packages [{"Name":"httpd"},{"Name":"php","Version":"8.1-2"}]` + "\n"},
		{"any of the three names updates", "package_update: yes\napt_update: no\n", "Update true\n"},
		{"one package as a word", "packages: jq\n", `Packages [{"Name":"jq"}]` + "\n"},
		{"an option is no package", "packages: [--purge, 'a b', jq]\n", `Packages [{"Name":"jq"}]` + "\n" +
			"! directive packages entry 1 (line 1) is malformed: this is no name of a package\n! directive packages entry 2 (line 1) is malformed: this is no name of a package\n"},
		{"commands in both forms", "runcmd:\n- [echo, it's, 1, yes]\n- echo $HOME\n-\n- 'a: b'\nbootcmd:\n- [ls]\n",
			`Bootcmd "#!/bin/sh\n'ls'\n"` + "\n" + `Runcmd "#!/bin/sh\n'echo' 'it'\\''s' '1' 'True'\necho $HOME\na: b\n"` + "\n"},
		{"one command that is none spoils all", "runcmd:\n- ok\n- a: b\n",
			"! directive runcmd (line 3) is malformed: entry 2 is a text or a list of words, and not a mapping: quote it. None of its commands run\n"},
		{"commands that are no list", "runcmd: ls\n", "! directive runcmd (line 1) is malformed: it is a list of commands, and not a string\n"},
		{"an unknown directive is named, and guessed", "runcdm: [a]\nwrite-files: []\nfoo: 1\n",
			"! directive runcdm (line 1) is not known (is runcmd meant?): nothing is done with it\n" +
				"! directive write-files (line 2) is not known (is write_files meant?): nothing is done with it\n" +
				"! directive foo (line 3) is not known: nothing is done with it\n"},
		{"a directive that only cloud-init has", "ntp: {}\n", "! directive ntp (line 1) is cloud-init's and is not carried out here\n"},
		{"a key that counts twice is doubted", "hostname: a\nhostname: b\n",
			`Hostname "b"` + "\n" + `? part-001: line 2: key "hostname" stands there twice: the last counts, line 1 does not` + "\n"},
		{"files of every encoding", "write_files:\n- path: /a\n- {path: b/../c, content: !!binary aGk=, permissions: '0755', owner: 'www:'}\n" +
			"- {path: /d, encoding: b64, content: 'aGk K', permissions: 0600, append: true}\n" +
			"- {path: /e, encoding: gz+b64, content: H4sIAAAAAAAAA8vIBACsKpPYAgAAAA==, defer: yes}\n",
			`Files [{"Group":"root","Mode":420,"Owner":"root","Path":"/a"},{"Content":"hi","Mode":493,"Owner":"www","Path":"/c"},` +
				`{"Append":true,"Content":"hi\n","Group":"root","Mode":384,"Owner":"root","Path":"/d"},` +
				`{"Content":"hi","Deferred":true,"Group":"root","Mode":420,"Owner":"root","Path":"/e"}]` + "\n"},
		{"a mode that lost its zero is doubted", "write_files:\n- {path: /a, permissions: 644}\n",
			`Files [{"Group":"root","Mode":644,"Owner":"root","Path":"/a"}]` + "\n" +
				"? directive write_files entry 1 permissions (line 2): without quotes and leading zero this is a decimal number: the mode becomes 01204\n"},
		{"files that are malformed", "write_files:\n- content: a\n- {path: /a, content: 5}\n- {path: /b, content: '!', encoding: b64}\n- {path: /c, permissions: u+x, colour: red}\n",
			`Files [{"Group":"root","Mode":420,"Owner":"root","Path":"/c"}]` + "\n" +
				"! directive write_files entry 1 (line 2) is malformed: it has no path\n" +
				"! directive write_files entry 2 content (line 3) is malformed: it is a text, and not a integer: quote it\n" +
				"! directive write_files entry 3 (line 4) is malformed: its content is not of the encoding that it names: the file is not written\n" +
				"! directive write_files entry 4 permissions (line 5) is malformed: these are no permissions such as '0644': the file gets 0644\n" +
				"! directive write_files entry 4 (line 5): key colour is not known: nothing is done with it\n"},
		{"users", "users:\n- default\n- name: eve\n  groups: adm, sudo\n  sudo: ALL=(ALL) NOPASSWD:ALL\n  shell: /bin/bash\n  ssh_authorized_keys: [ssh-ed25519 A e]\n  lock-passwd: false\n  passwd: $6$x\n  uid: 1500\n- bob,ann\n",
			`Users [{"Groups":["adm","sudo"],"Hash":"$6$x","Keys":["ssh-ed25519 A e"],"Name":"eve","Shell":"/bin/bash","Sudo":["ALL=(ALL) NOPASSWD:ALL"],"UID":"1500","Unlocked":true},{"Name":"bob"},{"Name":"ann"}]` + "\n"},
		{"a list of users without default", "users: [eve]\n", "DefaultUser false\n" + `Users [{"Name":"eve"}]` + "\n"},
		{"entries of one name are one user", "users:\n- {name: bob, shell: /a, uid: 1500}\n- bob\n- {name: bob, shell: /b, gecos: x}\n",
			"DefaultUser false\n" + `Users [{"Gecos":"x","Name":"bob","Shell":"/a","UID":"1500"}]` + "\n"},
		{"more of the default user", "users:\n- {name: default, groups: [docker], ssh_authorized_keys: [k]}\n- {passwd: $6$x}\n",
			`Default {"Groups":["docker"],"Hash":"$6$x","Keys":["k"]}` + "\n"},
		{"users that are malformed", "users:\n- name: -rf\n- name: a\n  gecos: 'a:b'\n- {name: b, system: true, ssh_authorized_keys: [k]}\n",
			"DefaultUser false\n! directive users entry 1 name (line 2) is malformed: this is no name of a user or a group\n" +
				"! directive users entry 1 (line 2): for this the user is not made\n" +
				"! directive users entry 2 gecos (line 4) is malformed: no colon may be in it\n" +
				"! directive users entry 2 (line 3): for this the user is not made\n" +
				"! directive users entry 3 (line 5) is malformed: ssh keys need a home, which no_create_home and system forbid: the user is not made\n"},
		{"groups in every form", "groups:\n- admins: [eve, bob]\n- cloud\n- admins: ann\n", `Groups [{"Members":["eve","bob","ann"],"Name":"admins"},{"Name":"cloud"}]` + "\n"},
		{"groups as a word", "groups: a, b\n", `Groups [{"Name":"a"},{"Name":"b"}]` + "\n"},
		{"names of the host", "hostname: web\nfqdn: web.example.org\nmanage_etc_hosts: localhost\ntimezone: Europe/Berlin\n",
			`Hostname "web"` + "\n" + `FQDN "web.example.org"` + "\nManageHosts true\n" + `Timezone "Europe/Berlin"` + "\n"},
		{"names that are none", "hostname: 'a b'\ntimezone: ../../etc/shadow\n",
			"! directive hostname (line 1) is malformed: this is no name of a host: letters, digits, dashes and points are\n" +
				"! directive timezone (line 2) is malformed: it is a name such as Europe/Berlin\n"},
		{"mounts take the usual fields", "mounts:\n- [/dev/vdb, /data]\n- [vdc, /x, xfs, noexec, 0, 0]\n- [vdd, null]\n- [vde, x]\nmount_default_fields: [null, null, ext4]\n",
			`Mounts [{"Device":"/dev/vdb","Dump":"0","Options":"defaults,nofail","Pass":"2","Point":"/data","Type":"ext4"},` +
				`{"Device":"vdc","Dump":"0","Options":"noexec","Pass":"0","Point":"/x","Type":"xfs"},{"Device":"vdd","Dump":"0","Options":"defaults,nofail","Pass":"2","Type":"ext4"}]` + "\n" +
				"! directive mounts entry 4 (line 5) is malformed: it needs a device, and a directory that begins with /\n"},
		{"swap of a size", "swap: {filename: /s, size: 1.5G, maxsize: 2G}\n", `Swap {"Bytes":1610612736,"File":"/s","Max":2147483648}` + "\n"},
		{"swap as suggested", "swap: {size: auto}\n", `Swap {"File":"/swap.img","Suggested":true}` + "\n"},
		{"growth of a partition", "growpart: {mode: off, devices: [/, /dev/vdb1]}\nresize_rootfs: false\n",
			`Growpart {"Asked":true,"Devices":["/","/dev/vdb1"],"Off":true}` + "\nResize false\n"},
		{"an end of the machine", "power_state: {mode: reboot, delay: '+5', message: bye, condition: test -f /x}\n",
			`Power {"Condition":["test -f /x"],"Message":"bye","Minutes":5,"Mode":"reboot","Shell":true}` + "\n"},
		{"an end that is malformed", "power_state: {mode: explode}\n", "! directive power_state (line 1) is malformed: its mode is one of poweroff, reboot and halt\n"},
		{"an end whose time or condition is malformed", "power_state: {mode: reboot, timeout: soon, condition: []}\n",
			"! directive power_state timeout (line 1) is malformed: it is a number of seconds\n! directive power_state condition (line 1) is malformed: it is a command without a word\n"},
		{"a text that is no YAML", "a: [\n", "! part-001: malformed YAML: yaml: line 1: did not find expected node content: nothing of it is done\n"},
		{"a config that is a list", "- a\n", "! part-001: a cloud-config is a mapping of directives, and this is a list\n"},
		{"a config of comments", "#cloud-config\n", "! part-001: the cloud-config is empty\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := show(decide(c.text)); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

// What a report says goes to logs, and a value may be a secret wherever it stands.
func TestReportsShowNoValue(t *testing.T) {
	const secret = "hunter2"
	for name := range directives {
		for _, form := range []string{"%: hunter2\n", "%: [hunter2]\n", "%: {hunter3: hunter2}\n", "%: [{name: hunter2, passwd: {a: hunter2}, path: [hunter2], content: {b: hunter2}}]\n",
			"%: {mode: hunter2, size: hunter2, delay: hunter2, condition: [hunter2]}\n", "%: [[hunter2, {a: hunter2}]]\n", "%: !!int hunter2\n", "%: !!binary hunter2\n"} {
			_, r := decide(strings.ReplaceAll(form, "%", name))
			for _, s := range append(r.Troubles, r.Doubts...) {
				if strings.Contains(s, secret) {
					t.Errorf("%s: the report says %q", name, s)
				}
			}
		}
	}
}

var merges = []struct {
	name  string
	parts []string
	want  string
}{
	{"a later part replaces directives", []string{"runcmd: [a]\nhostname: x\n", "runcmd: [b]\n"}, "{'runcmd': ['b'], 'hostname': 'x'}"},
	{"mappings are replaced whole", []string{"swap: {filename: /a, size: 1}\n", "swap: {size: 2}\n"}, "{'swap': {'size': 2}}"},
	{"lists are appended on request", []string{"runcmd: [a]\n", "merge_how: list(append)+dict(recurse_list)\nruncmd: [b]\n"}, "{'runcmd': ['a', 'b']}"},
	{"or put before", []string{"runcmd: [a]\n", "merge_how: dict(recurse_array)+list(prepend)\nruncmd: [b]\n"}, "{'runcmd': ['b', 'a']}"},
	{"the list form of the request", []string{"runcmd: [a]\n", "merge_how:\n- {name: list, settings: [append]}\n- {name: dict, settings: [no_replace, recurse_list]}\nruncmd: [b]\nx: 1\n"}, "{'runcmd': ['a', 'b'], 'x': 1}"},
	{"texts are joined on request", []string{"a: x\n", "merge_type: dict(recurse_str)+str(append)\na: y\n"}, "{'a': 'xy'}"},
	{"without replacement the first stands", []string{"a: 1\nb: {c: 1}\n", "merge_how: dict(no_replace)\na: 2\nb: {c: 2, d: 3}\n"}, "{'a': 1, 'b': {'c': 1, 'd': 3}}"},
	{"a null deletes on request", []string{"a: 1\nb: 2\n", "merge_how: dict(replace,allow_delete)\na:\n"}, "{'b': 2}"},
	{"lists merge by place on request", []string{"a: [1, 2, 3]\n", "merge_how: dict(recurse_list)+list(replace)\na: [7]\n"}, "{'a': [7, 2, 3]}"},
}

func TestMerge(t *testing.T) {
	for _, c := range merges {
		t.Run(c.name, func(t *testing.T) {
			var parts []userdata.Part
			for _, text := range c.parts {
				parts = append(parts, userdata.Part{Name: "p", Body: []byte(text)})
			}
			root, r := Merge(parts)
			if got := root.Str(); got != c.want || len(r.Troubles) > 0 {
				t.Errorf("got  %s, %v\nwant %s", got, r.Troubles, c.want)
			}
		})
	}
}

func TestMergeTellsWhatItLeavesOut(t *testing.T) {
	root, r := Merge([]userdata.Part{{Name: "a", Body: []byte("a: 1\n")}, {Name: "b", Body: []byte("b: 2\n"), Merge: "tuple()"}, {Name: "c", Body: []byte("c: 3\n")}})
	if root.Str() != "{'a': 1, 'c': 3}" || len(r.Troubles) != 1 || !strings.HasPrefix(r.Troubles[0], "b: the merge type") {
		t.Errorf("got %s, %v", root.Str(), r.Troubles)
	}
}

func TestVendorDataIsUnderUserData(t *testing.T) {
	load := func(text string) *yaml.Value {
		doc, err := yaml.Load([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return doc.Root
	}
	got := Under(load("runcmd: [u]\nswap: {size: 1}\n"), load("runcmd: [v]\nswap: {size: 2, maxsize: 3}\ntimezone: UTC\n")).Str()
	if want := "{'runcmd': ['u'], 'swap': {'size': 1, 'maxsize': 3}, 'timezone': 'UTC'}"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzDecide(f *testing.F) {
	f.Add("runcmd: [a]\nwrite_files: [{path: /a, content: b}]\nusers: [default, {name: a}]\nmounts: [[a, /b]]\nswap: {size: 1G}\n")
	f.Add("groups: {a: b}\npower_state: {mode: reboot}\nmerge_how: list(append)\npackages: [[a, 1]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, r := decide(text)
		for _, file := range p.Files {
			if !strings.HasPrefix(file.Path, "/") || strings.Contains(file.Path, "/../") || file.Mode > 0o7777 {
				t.Errorf("got a file %q with mode %#o", file.Path, file.Mode)
			}
		}
		for _, u := range p.Users {
			if !account.MatchString(u.Name) || strings.ContainsAny(u.Gecos+u.Home+u.Shell+u.Hash, ":\n\x00") {
				t.Errorf("got a user %+v", u)
			}
		}
		for _, s := range r.Troubles {
			if strings.ContainsAny(s, "\x00\r") {
				t.Errorf("got a sentence %q", s)
			}
		}
	})
}
