package config

import (
	"cmp"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/pattern"
	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// account is a name of a user or a group which no tool takes for an option and no file for two fields.
var account = pattern.New(`^[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,31}\$?$`)

func (d *decoder) account(v *yaml.Value, to *string) bool {
	var s string
	if !d.line(v, &s) {
		return false
	}
	if !account.MatchString(s) || strings.Trim(s, ".") == "" {
		d.bad(v, "this is no name of a user or a group")
		return false
	}
	*to = s
	return true
}

// names is a list of accounts, or one text with commas.
func (d *decoder) names(v *yaml.Value) (list []string) {
	for _, w := range d.words(v, ",") {
		var s string
		if d.account(&yaml.Value{Kind: yaml.String, Text: w, Line: v.Line}, &s) {
			list = append(list, s)
		}
	}
	return list
}

// groups is a list of names or of names with members, a mapping of them, or a text with commas.
func (d *decoder) groups(v *yaml.Value) {
	group := func(name *yaml.Value, members *yaml.Value) {
		var g Group
		if !d.account(name, &g.Name) {
			return
		}
		if members != nil {
			g.Members = d.names(members)
		}
		for i := range d.p.Groups {
			if d.p.Groups[i].Name == g.Name {
				d.p.Groups[i].Members = append(d.p.Groups[i].Members, g.Members...)
				return
			}
		}
		d.p.Groups = append(d.p.Groups, g)
	}
	switch v.Kind {
	case yaml.Map:
		for _, e := range v.Map {
			group(e.Key, e.Value)
		}
	case yaml.List:
		d.items(v, func(item *yaml.Value) {
			switch item.Kind {
			case yaml.Map:
				for _, e := range item.Map {
					group(e.Key, e.Value)
				}
			case yaml.String:
				group(item, nil)
			default:
				d.bad(item, "it is a name, or a name with its members, and not a %s", item.Kind)
			}
		})
	default:
		for _, name := range d.names(v) {
			group(&yaml.Value{Kind: yaml.String, Text: name, Line: v.Line}, nil)
		}
	}
}

// users is a list of names and mappings. Where there is one, the distribution's default user exists only if the list
// says so.
func (d *decoder) users(v *yaml.Value) {
	d.p.DefaultUser = false
	switch v.Kind {
	case yaml.Map: // a form of old
		for _, e := range v.Map {
			switch {
			case e.Value.Kind == yaml.Map:
				d.within(" %s", printable.Word(e.Key.Str(), 60), func() { d.user(e.Value, e.Key) })
			case d.truth(e.Value):
				d.plain(e.Key)
			}
		}
	case yaml.List:
		d.items(v, func(item *yaml.Value) {
			switch item.Kind {
			case yaml.Map:
				d.user(item, nil)
			case yaml.List:
				for _, name := range item.List {
					d.plain(name)
				}
			default:
				d.plain(item)
			}
		})
	default:
		d.plain(v)
	}
}

// plain is names without anything else.
func (d *decoder) plain(v *yaml.Value) {
	for _, name := range d.names(v) {
		if name == "default" {
			d.p.DefaultUser = true
		} else {
			d.keep(User{Name: name})
		}
	}
}

// keep adds a user. Entries of one name are one user: what the earlier says stands, the later adds to it.
func (d *decoder) keep(u User) {
	for i := range d.p.Users {
		if d.p.Users[i].Name == u.Name {
			d.p.Users[i].Fill(u)
			return
		}
	}
	d.p.Users = append(d.p.Users, u)
}

// Fill takes from another what u does not say.
func (u *User) Fill(more User) {
	for _, f := range []struct {
		to   *string
		from string
	}{{&u.Name, more.Name}, {&u.Gecos, more.Gecos}, {&u.Home, more.Home}, {&u.Shell, more.Shell}, {&u.UID, more.UID}, {&u.PrimaryGroup, more.PrimaryGroup},
		{&u.Expire, more.Expire}, {&u.Inactive, more.Inactive}, {&u.Hash, more.Hash}, {&u.Rehash, more.Rehash}, {&u.Password, more.Password}} {
		*f.to = cmp.Or(*f.to, f.from)
	}
	for _, f := range []struct {
		to   *[]string
		from []string
	}{{&u.Groups, more.Groups}, {&u.Sudo, more.Sudo}, {&u.Keys, more.Keys}} {
		if len(*f.to) == 0 {
			*f.to = f.from
		}
	}
	u.Unlocked, u.System, u.NoHome, u.NoUserGroup = u.Unlocked || more.Unlocked, u.System || more.System, u.NoHome || more.NoHome, u.NoUserGroup || more.NoUserGroup
}

func (d *decoder) user(v, name *yaml.Value) {
	var u User
	good := name == nil || d.account(name, &u.Name)
	line := func(to *string) func(*yaml.Value) {
		return func(v *yaml.Value) {
			var s string
			if !d.line(v, &s) || strings.Contains(s, ":") { // the separator of passwd's fields
				if s != "" {
					d.bad(v, "no colon may be in it")
				}
				good = false
			}
			*to = s
		}
	}
	flag := func(to *bool) func(*yaml.Value) { return func(v *yaml.Value) { d.set(v, to) } }
	later := func(v *yaml.Value) {
		d.trouble("directive %s (line %d) is cloud-init's and is not carried out here", d.at, v.Line)
	}
	d.fields(v, map[string]func(*yaml.Value){
		"name":                func(v *yaml.Value) { good = d.account(v, &u.Name) && good },
		"gecos":               line(&u.Gecos),
		"homedir":             line(&u.Home),
		"shell":               line(&u.Shell),
		"uid":                 func(v *yaml.Value) { good = d.uid(v, &u.UID) && good },
		"primary_group":       func(v *yaml.Value) { good = d.account(v, &u.PrimaryGroup) && good },
		"groups":              func(v *yaml.Value) { u.Groups = d.names(v) },
		"create_groups":       func(*yaml.Value) {}, // they are made in any case: a user cannot be in what is not there
		"expiredate":          line(&u.Expire),
		"inactive":            line(&u.Inactive),
		"lock_passwd":         func(v *yaml.Value) { u.Unlocked = !d.truth(v) },
		"passwd":              line(&u.Hash),
		"hashed_passwd":       line(&u.Rehash),
		"plain_text_passwd":   func(v *yaml.Value) { good = d.line(v, &u.Password) && good },
		"ssh_authorized_keys": func(v *yaml.Value) { u.Keys = d.words(v, "") },
		"sudo":                func(v *yaml.Value) { u.Sudo = d.sudo(v) },
		"system":              flag(&u.System),
		"no_create_home":      flag(&u.NoHome),
		"no_user_group":       flag(&u.NoUserGroup),
		"no_log_init":         func(*yaml.Value) {}, // for systems whose lastlog is sparse: nothing to do with us
		"default":             func(*yaml.Value) {},
		"selinux_user":        later, "ssh_import_id": later, "ssh_redirect_user": later, "snapuser": later, "doas": later,
	})
	switch {
	case v.Kind != yaml.Map:
	case !good:
		d.trouble("directive %s (line %d): for this the user is not made", d.at, v.Line)
	case u.Name == "" || u.Name == "default": // cloud-init takes an entry without a name for the default user
		d.p.DefaultUser = true
		u.Name = ""
		d.p.Default.Fill(u)
	case len(u.Keys) > 0 && (u.NoHome || u.System):
		d.bad(v, "ssh keys need a home, which no_create_home and system forbid: the user is not made")
	default:
		d.keep(u)
	}
}

func (d *decoder) uid(v *yaml.Value, to *string) bool {
	var s string
	if !d.line(v, &s) || s == "" || strings.Trim(s, "0123456789") != "" || len(s) > 9 {
		d.bad(v, "it is a number")
		return false
	}
	*to = s
	return true
}

// sudo is a rule, a list of rules, or false for none.
func (d *decoder) sudo(v *yaml.Value) []string {
	if v.Kind == yaml.Bool {
		if v.Bool {
			d.bad(v, "it is a rule such as ALL=(ALL) NOPASSWD:ALL, or false")
		}
		return nil
	}
	return d.words(v, "")
}
