// Package config decides what a #cloud-config wants done.
//
// Several parts merge into one mapping of directives, as cloud-init merges them; the mapping becomes a Plan, which has
// types. Nothing is swallowed: a directive that is unknown, malformed or that nobody here carries out is told by a sentence
// with its name and line, and the rest is done. What cloud-init takes although its author hardly meant it is done as
// there, and doubted.
//
//	parts --Merge--> directives --Decide--> Plan, Report --> package provision
//
// Words of the user data beyond names of directives stand in no sentence, for sentences go to logs.
package config

import (
	"fmt"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// Plan is what is to be done, by subject. The zero value is nothing but what is done for all instances.
type Plan struct {
	Bootcmd string // a script for sh, at every boot; empty: none
	Runcmd  string // one with its first line, once; empty: none

	Files []File

	Growpart Growpart
	Resize   bool // the root's file system

	Mounts []Mount
	Swap   *Swap

	Hostname         string // short; empty: the metadata's
	FQDN             string
	PreserveHostname bool
	PreferFQDN       bool
	ManageHosts      bool // /etc/hosts is ours to write
	Timezone         string

	Groups      []Group
	DefaultUser bool // the distribution's, who gets the instance's keys
	Default     User // what is said of the default user, beside what the distribution says; without a name
	Users       []User
	Keys        []string // for the default user, beside the instance's
	DisableRoot bool     // root's keys only lead to a sentence about the default user

	Update, Upgrade, Reboot bool // package lists; packages; the machine, if they say so
	Packages                []Package

	FinalMessage string
	Power        *Power
}

// File is one of write_files.
type File struct {
	Path         string
	Content      []byte
	Owner, Group string // names or numbers; empty: left
	Mode         uint32
	Append       bool
	Deferred     bool // until packages and users are there
}

// Growpart is which partitions grow to what is free behind them.
type Growpart struct {
	Off     bool
	Devices []string
	Force   bool // although /etc/growroot-disabled is there
	Asked   bool // by a directive, not only by being what is usual
}

// Mount is a line of fstab. An empty Point takes the device's mounts off.
type Mount struct {
	Device, Point, Type, Options, Dump, Pass string
}

// Swap is a file for swapping.
type Swap struct {
	File      string
	Bytes     int64 // 0: as memory and disk suggest
	Max       int64 // 0: no limit of the author's
	Suggested bool
}

// Group is a group and who is to be in it.
type Group struct {
	Name    string
	Members []string
}

// User is an account.
type User struct {
	Name, Gecos, Home, Shell, UID, PrimaryGroup string
	Expire, Inactive                            string
	Groups, Sudo, Keys                          []string
	Hash, Rehash, Password                      string // of the password; all are secrets. Hash is not for a user who is there already
	Unlocked, System, NoHome, NoUserGroup       bool
}

// Package is one to install; the newest if Version is empty.
type Package struct{ Name, Version string }

// Power is how the machine ends after all is done.
type Power struct {
	Mode      string // poweroff, reboot or halt
	Minutes   int
	Message   string
	Never     bool     // the condition is the word false
	Condition []string // ends with 0 if it is to be; one word: for sh
	Shell     bool     // the condition is for sh
}

// Report is what there is to say about a config.
type Report struct {
	Troubles []string // what is not done, and why
	Doubts   []string // what is done, and hardly meant
}

func (r *Report) trouble(format string, args ...any) {
	r.Troubles = append(r.Troubles, fmt.Sprintf(format, args...))
}

func (r *Report) doubt(format string, args ...any) {
	r.Doubts = append(r.Doubts, fmt.Sprintf(format, args...))
}

// Add joins another report.
func (r *Report) Add(more Report) {
	r.Troubles, r.Doubts = append(r.Troubles, more.Troubles...), append(r.Doubts, more.Doubts...)
}

// Decide makes a plan of merged directives.
func Decide(root *yaml.Value) (Plan, Report) {
	d := decoder{p: Plan{Growpart: Growpart{Devices: []string{"/"}}, Resize: true, DefaultUser: true, DisableRoot: true}}
	d.root = root
	for _, e := range root.Map {
		name := e.Key.Str()
		read, known := directives[name]
		switch {
		case known && e.Value.Kind == yaml.Null: // a directive without a value asks for nothing
		case known:
			d.at = name
			read(&d, e.Value)
		case strings.Contains(others, " "+name+" "):
			d.trouble("directive %s (line %d) is cloud-init's and is not carried out here", name, e.Key.Line)
		default:
			d.trouble("directive %s (line %d) is not known%s: nothing is done with it", printable.Word(name, 60), e.Key.Line, meant(name))
		}
	}
	return d.p, d.Report
}

// directives by name. Three names for one thing are history's: the last is Amazon Linux's.
var directives = map[string]func(*decoder, *yaml.Value){
	"bootcmd": func(d *decoder, v *yaml.Value) { d.p.Bootcmd = d.script(v) },
	"runcmd":  func(d *decoder, v *yaml.Value) { d.p.Runcmd = d.script(v) },

	"package_update": func(d *decoder, v *yaml.Value) { d.flag(v, &d.p.Update) },
	"apt_update":     func(d *decoder, v *yaml.Value) { d.flag(v, &d.p.Update) },
	"repo_update":    func(d *decoder, v *yaml.Value) { d.flag(v, &d.p.Update) },

	"package_upgrade": func(d *decoder, v *yaml.Value) { d.flag(v, &d.p.Upgrade) },
	"apt_upgrade":     func(d *decoder, v *yaml.Value) { d.flag(v, &d.p.Upgrade) },
	"repo_upgrade":    (*decoder).upgrade,

	"package_reboot_if_required": func(d *decoder, v *yaml.Value) { d.flag(v, &d.p.Reboot) },
	"apt_reboot_if_required":     func(d *decoder, v *yaml.Value) { d.flag(v, &d.p.Reboot) },
	"packages":                   (*decoder).packages,

	"write_files":          (*decoder).files,
	"growpart":             (*decoder).growpart,
	"resize_rootfs":        (*decoder).resize,
	"mounts":               (*decoder).mounts,
	"mount_default_fields": func(*decoder, *yaml.Value) {}, // read with the mounts
	"swap":                 (*decoder).swap,

	"hostname":                  func(d *decoder, v *yaml.Value) { d.hostname(v, &d.p.Hostname) },
	"fqdn":                      func(d *decoder, v *yaml.Value) { d.hostname(v, &d.p.FQDN) },
	"preserve_hostname":         func(d *decoder, v *yaml.Value) { d.set(v, &d.p.PreserveHostname) },
	"prefer_fqdn_over_hostname": func(d *decoder, v *yaml.Value) { d.set(v, &d.p.PreferFQDN) },
	"manage_etc_hosts":          (*decoder).hosts,
	"timezone":                  (*decoder).timezone,

	"groups":              (*decoder).groups,
	"users":               (*decoder).users,
	"ssh_authorized_keys": func(d *decoder, v *yaml.Value) { d.p.Keys = d.words(v, "") },
	"disable_root":        func(d *decoder, v *yaml.Value) { d.set(v, &d.p.DisableRoot) },

	"final_message": func(d *decoder, v *yaml.Value) { d.text(v, &d.p.FinalMessage) },
	"power_state":   (*decoder).power,
}

// others are directives of cloud-init 22.4 that are known and not carried out.
const others = " allow_public_ssh_keys ansible apk_repos apt apt_pipelining authkey_hash autoinstall byobu_by_default ca-certs ca_certs chef " +
	"chpasswd cloud_config_modules cloud_final_modules cloud_init_modules datasource datasource_list debug def_log_file device_aliases disable_ec2_metadata " +
	"disable_root_opts disk_setup drivers fan fs_setup grub-dpkg grub_dpkg keyboard landscape locale locale_configfile log_cfgs lxd " +
	"manage_resolv_conf mcollective migrate network no_ssh_fingerprints ntp output password phone_home puppet random_seed reporting resolv_conf " +
	"rh_subscription rsyslog salt_minion snap spacewalk ssh ssh_deletekeys ssh_fp_console_blacklist ssh_genkeytypes ssh_import_id " +
	"ssh_key_console_blacklist ssh_keys ssh_publish_hostkeys ssh_pwauth ssh_quiet_keygen syslog_fix_perms system_info ubuntu_advantage updates user " +
	"vendor_data vendor_data2 wireguard yum_repo_dir yum_repos zypper "

// meant is the directive that a name is one slip away from, as a part of a sentence.
func meant(name string) string {
	best := ""
	for known := range directives {
		if slip(name, known) && (best == "" || known < best) {
			best = known
		}
	}
	if best == "" {
		return ""
	}
	return " (is " + best + " meant?)"
}

// slip tells whether two names differ by at most one letter too many, missing or other, or by two that changed places,
// and by dashes for underscores.
func slip(a, b string) bool {
	a, b = strings.ReplaceAll(strings.ToLower(a), "-", "_"), strings.ReplaceAll(b, "-", "_")
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for a != "" && b != "" && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return len(a) <= 1 && len(b) <= 1 || len(a) == 2 && len(b) == 2 && a[0] == b[1] && a[1] == b[0]
}
