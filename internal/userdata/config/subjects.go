package config

import (
	"encoding/base64"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/pattern"
	"github.com/ichiro-metal/ichiro/internal/userdata"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// upgrade is also what Amazon Linux writes as a word: security, bugfix, all or none.
func (d *decoder) upgrade(v *yaml.Value) {
	switch strings.ToLower(v.Str()) {
	case "security", "bugfix":
		d.doubt("directive %s (line %d) names a kind of upgrades: all there are will be made", d.at, v.Line)
		d.p.Upgrade = true
	case "all":
		d.p.Upgrade = true
	default:
		d.flag(v, &d.p.Upgrade)
	}
}

// packageName is what no package manager takes for an option or for two words.
var packageName = pattern.New(`^[A-Za-z0-9@_/.][^\s\x00]*$`)

func (d *decoder) packages(v *yaml.Value) {
	if v.Kind == yaml.String { // one name
		v = &yaml.Value{Kind: yaml.List, Line: v.Line, List: []*yaml.Value{v}}
	}
	d.items(v, func(item *yaml.Value) {
		var p Package
		switch {
		case item.Kind == yaml.List && len(item.List) >= 1 && len(item.List) <= 2:
			p.Name = item.List[0].Str()
			if len(item.List) == 2 && item.List[1].Kind != yaml.Null {
				p.Version = item.List[1].Str()
			}
		case item.Kind == yaml.String:
			p.Name = item.Text
		default:
			d.bad(item, "it is a name or [name, version], and not a %s", item.Kind)
			return
		}
		if !packageName.MatchString(p.Name) || p.Version != "" && !packageName.MatchString(p.Version) {
			d.bad(item, "this is no name of a package")
			return
		}
		d.p.Packages = append(d.p.Packages, p)
	})
}

func (d *decoder) files(v *yaml.Value) {
	d.items(v, func(item *yaml.Value) {
		f := File{Owner: "root", Group: "root", Mode: 0o644}
		var encoding string
		good := true
		d.fields(item, map[string]func(*yaml.Value){
			"path":        func(v *yaml.Value) { good = d.line(v, &f.Path) && good },
			"content":     func(v *yaml.Value) { good = d.content(v, &f.Content) && good },
			"encoding":    func(v *yaml.Value) { good = d.line(v, &encoding) && good },
			"owner":       func(v *yaml.Value) { good = d.owner(v, &f) && good },
			"permissions": func(v *yaml.Value) { f.Mode = d.mode(v) },
			"append":      func(v *yaml.Value) { d.set(v, &f.Append) },
			"defer":       func(v *yaml.Value) { d.set(v, &f.Deferred) },
		})
		switch {
		case item.Kind != yaml.Map:
		case f.Path == "" && good:
			d.bad(item, "it has no path")
		case good && d.decode(item, &f, encoding):
			f.Path = path.Clean("/" + f.Path)
			d.p.Files = append(d.p.Files, f)
		}
	})
}

func (d *decoder) content(v *yaml.Value, to *[]byte) bool {
	if v.Kind != yaml.String && v.Kind != yaml.Bytes {
		d.bad(v, "it is a text, and not a %s: quote it", v.Kind)
		return false
	}
	*to = []byte(v.Text)
	return true
}

func (d *decoder) owner(v *yaml.Value, f *File) bool {
	var s string
	if !d.line(v, &s) {
		return false
	}
	f.Owner, f.Group, _ = strings.Cut(s, ":")
	for _, name := range []*string{&f.Owner, &f.Group} {
		if *name = strings.TrimSpace(*name); *name == "-1" || strings.EqualFold(*name, "none") {
			*name = ""
		}
	}
	return true
}

// mode is octal as a text; a number is what YAML 1.1 made of it, and that is decimal if it has no leading zero.
func (d *decoder) mode(v *yaml.Value) uint32 {
	const usual, most = 0o644, 0o7777
	n, err := int64(0), error(nil)
	switch v.Kind {
	case yaml.Int:
		n = v.Int
		if looks, err := strconv.ParseInt(v.Text, 8, 32); err == nil && looks <= most && looks&0o600 == 0o600 && n&0o600 != 0o600 {
			d.doubt("directive %s (line %d): without quotes and leading zero this is a decimal number: the mode becomes %#o", d.at, v.Line, n)
		}
	case yaml.Float:
		n = int64(v.Float)
	case yaml.String:
		n, err = strconv.ParseInt(strings.TrimPrefix(strings.TrimSpace(v.Text), "0o"), 8, 32)
	default:
		n = -1
	}
	if err != nil || n < 0 || n > most {
		d.bad(v, "these are no permissions such as '0644': the file gets %#o", usual)
		return usual
	}
	return uint32(n)
}

// decode takes off what carried the content through YAML.
func (d *decoder) decode(item *yaml.Value, f *File, encoding string) bool {
	var err error
	kind := strings.ToLower(encoding)
	kind, zipped := strings.CutPrefix(kind, "gz")
	if zipped {
		kind = strings.TrimPrefix(strings.TrimPrefix(kind, "ip"), "+")
	}
	switch {
	case kind == "b64" || kind == "base64":
		f.Content, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(f.Content)), ""))
	case kind == "" || !zipped && (kind == "text/plain" || kind == "text"):
	default:
		d.bad(item, "its encoding is not one of b64, gz, gz+b64 and text/plain: the content is written as it is")
		return true
	}
	if err == nil && zipped {
		f.Content, err = userdata.Unpack(f.Content)
	}
	if err != nil {
		d.bad(item, "its content is not of the encoding that it names: the file is not written")
	}
	return err == nil
}

func (d *decoder) growpart(v *yaml.Value) {
	g := &d.p.Growpart
	g.Asked = true
	d.fields(v, map[string]func(*yaml.Value){
		"mode": func(v *yaml.Value) {
			switch strings.ToLower(v.Str()) {
			case "off", "false":
				g.Off = true
			case "auto", "growpart":
			default:
				d.bad(v, "it is auto, growpart or off")
				g.Off = true
			}
		},
		"devices":                  func(v *yaml.Value) { g.Devices = d.words(v, ",") },
		"ignore_growroot_disabled": func(v *yaml.Value) { d.set(v, &g.Force) },
	})
}

func (d *decoder) resize(v *yaml.Value) {
	if strings.EqualFold(v.Str(), "noblock") {
		return
	}
	d.set(v, &d.p.Resize)
}

func (d *decoder) mounts(v *yaml.Value) {
	usual := [6]string{"", "", "auto", "defaults,nofail", "0", "2"}
	if f := d.root.Get("mount_default_fields"); f != nil && f.Kind == yaml.List {
		for i, w := range f.List {
			if i < len(usual) && w.Kind != yaml.Null {
				usual[i] = w.Str()
			}
		}
	} else if f != nil && f.Kind != yaml.Null {
		d.trouble("directive mount_default_fields (line %d) is malformed: it is a list of six fields", f.Line)
	}
	d.items(v, func(item *yaml.Value) {
		if item.Kind != yaml.List || len(item.List) == 0 || len(item.List) > 6 {
			d.bad(item, "it is a list of one to six fields of fstab")
			return
		}
		f := usual
		for i, w := range item.List {
			if w.Kind == yaml.Null {
				continue
			}
			if f[i] = w.Str(); w.Kind == yaml.List || w.Kind == yaml.Map || f[i] == "" || strings.ContainsAny(f[i], "\n\r\x00") {
				d.bad(item, "field %d is not a word", i+1)
				return
			}
		}
		if f[0] == "" || len(item.List) > 1 && f[1] != "" && f[1] != "none" && !strings.HasPrefix(f[1], "/") {
			d.bad(item, "it needs a device, and a directory that begins with /")
			return
		}
		d.p.Mounts = append(d.p.Mounts, Mount{f[0], f[1], f[2], f[3], f[4], f[5]})
	})
}

func (d *decoder) swap(v *yaml.Value) {
	s := Swap{File: "/swap.img"}
	d.fields(v, map[string]func(*yaml.Value){
		"filename": func(v *yaml.Value) { d.line(v, &s.File) },
		"size": func(v *yaml.Value) {
			if s.Suggested = strings.EqualFold(v.Str(), "auto"); !s.Suggested {
				s.Bytes = d.bytes(v)
			}
		},
		"maxsize": func(v *yaml.Value) { s.Max = d.bytes(v) },
	})
	if !strings.HasPrefix(s.File, "/") {
		d.bad(v, "its file is a path that begins with /")
	} else if s.Suggested || s.Bytes > 0 {
		d.p.Swap = &s
	}
}

// name of a host: labels of letters, digits and dashes, with points between them.
var hostName = pattern.New(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

func (d *decoder) hostname(v *yaml.Value, to *string) {
	var s string
	if d.line(v, &s) && !hostName.MatchString(s) {
		d.bad(v, "this is no name of a host: letters, digits, dashes and points are")
		return
	}
	*to = s
}

func (d *decoder) hosts(v *yaml.Value) {
	if w := strings.ToLower(v.Str()); w == "localhost" || w == "template" {
		d.p.ManageHosts = true
		return
	}
	d.set(v, &d.p.ManageHosts)
}

func (d *decoder) timezone(v *yaml.Value) {
	var s string
	if d.line(v, &s) && (s != path.Clean(s) || strings.HasPrefix(s, "/") || strings.HasPrefix(s, "..")) {
		d.bad(v, "it is a name such as Europe/Berlin")
		return
	}
	d.p.Timezone = s
}

func (d *decoder) power(v *yaml.Value) {
	p := Power{}
	good := true
	d.fields(v, map[string]func(*yaml.Value){
		"mode": func(v *yaml.Value) { d.line(v, &p.Mode) },
		"delay": func(v *yaml.Value) {
			text := strings.TrimPrefix(strings.TrimSpace(v.Str()), "+")
			n, err := strconv.ParseUint(text, 10, 20)
			if err != nil && text != "now" {
				d.bad(v, "it is now, or minutes such as 5 or +5")
				good = false
			}
			p.Minutes = int(n)
		},
		"message": func(v *yaml.Value) { d.line(v, &p.Message) },
		"timeout": func(v *yaml.Value) { // for a process that does not end; ours asks for the power itself, at its end
			if _, err := strconv.ParseFloat(strings.TrimSpace(v.Str()), 64); err != nil {
				d.bad(v, "it is a number of seconds")
				good = false
			}
		},
		"condition": func(v *yaml.Value) {
			switch v.Kind {
			case yaml.Bool:
				p.Never = !v.Bool
			case yaml.String:
				p.Condition, p.Shell = []string{v.Text}, true
			case yaml.List:
				for _, w := range v.List {
					p.Condition = append(p.Condition, w.Str())
				}
				if len(v.List) == 0 { // no program ends with 0
					d.bad(v, "it is a command without a word")
					good = false
				}
			default:
				d.bad(v, "it is true, false or a command")
				good = false
			}
		},
	})
	if v.Kind == yaml.Map && !slices.Contains([]string{"poweroff", "reboot", "halt"}, p.Mode) {
		d.bad(v, "its mode is one of poweroff, reboot and halt")
		return
	}
	if v.Kind == yaml.Map && good {
		d.p.Power = &p
	}
}
