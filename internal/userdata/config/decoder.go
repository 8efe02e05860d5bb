package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// decoder reads directives into a plan.
type decoder struct {
	Report
	p    Plan
	root *yaml.Value
	at   string // the directive, and the entry within it
}

// bad tells that a value is not what a directive takes.
func (d *decoder) bad(v *yaml.Value, format string, args ...any) {
	d.trouble("directive %s (line %d) is malformed: %s", d.at, v.Line, fmt.Sprintf(format, args...))
}

// within names a part of a directive for the complaints of read.
func (d *decoder) within(format string, arg any, read func()) {
	before := d.at
	d.at += fmt.Sprintf(format, arg)
	read()
	d.at = before
}

// truth is a boolean, or a word that is one to cloud-init.
func (d *decoder) truth(v *yaml.Value) bool {
	switch strings.ToLower(strings.TrimSpace(v.Str())) {
	case "true", "1", "on", "yes":
		return true
	case "false", "0", "off", "no", "none", "":
	default:
		d.bad(v, "it is true or false, and not this %s", v.Kind)
	}
	return false
}

// flag is set by any of several names.
func (d *decoder) flag(v *yaml.Value, to *bool) { *to = d.truth(v) || *to }

func (d *decoder) set(v *yaml.Value, to *bool) { *to = d.truth(v) }

// text is a string, or a number or so that was not quoted.
func (d *decoder) text(v *yaml.Value, to *string) bool {
	if v.Kind == yaml.List || v.Kind == yaml.Map || v.Kind == yaml.Bytes {
		d.bad(v, "it is a text, and not a %s", v.Kind)
		return false
	}
	if v.Kind != yaml.Null {
		*to = v.Str()
	}
	if strings.ContainsRune(*to, 0) {
		d.bad(v, "a zero byte is in it")
		*to = ""
		return false
	}
	return true
}

// line is a text for a file of lines.
func (d *decoder) line(v *yaml.Value, to *string) bool {
	var s string
	if !d.text(v, &s) {
		return false
	}
	if s = strings.TrimSpace(s); strings.ContainsAny(s, "\n\r") {
		d.bad(v, "it has more than one line")
		return false
	}
	*to = s
	return true
}

// words is a list of lines, or one text which is split at a separator; empty: not split.
func (d *decoder) words(v *yaml.Value, separator string) (list []string) {
	switch v.Kind {
	case yaml.List:
		for _, item := range v.List {
			var s string
			if item.Kind != yaml.Null && d.line(item, &s) && s != "" {
				list = append(list, s)
			}
		}
	case yaml.Map, yaml.Bytes:
		d.bad(v, "it is a list, and not a %s", v.Kind)
	case yaml.Null:
	default:
		if separator == "" {
			separator = "\n"
		}
		for s := range strings.SplitSeq(v.Str(), separator) {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
	}
	return list
}

// items calls read for each entry of a list.
func (d *decoder) items(v *yaml.Value, read func(*yaml.Value)) {
	if v.Kind != yaml.List {
		d.bad(v, "it is a list, and not a %s", v.Kind)
		return
	}
	for i, item := range v.List {
		d.within(" entry %d", i+1, func() { read(item) })
	}
}

// fields reads the keys of a mapping. A key that is not here is told; a null leaves what there is.
func (d *decoder) fields(v *yaml.Value, read map[string]func(*yaml.Value)) {
	if v.Kind != yaml.Map {
		d.bad(v, "it is a mapping, and not a %s", v.Kind)
		return
	}
	for _, e := range v.Map {
		name := e.Key.Str()
		f, ok := read[strings.ReplaceAll(name, "-", "_")]
		switch {
		case !ok:
			d.trouble("directive %s (line %d): key %s is not known: nothing is done with it", d.at, e.Key.Line, printable.Word(name, 60))
		case e.Value.Kind != yaml.Null:
			d.within(" %s", name, func() { f(e.Value) })
		}
	}
}

// script makes a shell script of commands: a list is a command and its arguments, word by word; a string is a line of
// the shell. One entry that is neither spoils all, as in cloud-init: half of the commands might be worse than none.
func (d *decoder) script(v *yaml.Value) string {
	if v.Kind != yaml.List {
		d.bad(v, "it is a list of commands, and not a %s", v.Kind)
		return ""
	}
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for i, item := range v.List {
		switch item.Kind {
		case yaml.List:
			words := make([]string, len(item.List))
			for k, w := range item.List {
				words[k] = "'" + strings.ReplaceAll(w.Str(), "'", `'\''`) + "'"
			}
			b.WriteString(strings.Join(words, " ") + "\n")
		case yaml.String:
			b.WriteString(item.Text + "\n")
		case yaml.Null:
		default:
			d.bad(item, "entry %d is a text or a list of words, and not a %s: quote it. None of its commands run", i+1, item.Kind)
			return ""
		}
	}
	return b.String()
}

// bytes reads a size: a number, or one with a unit of 1024's powers.
func (d *decoder) bytes(v *yaml.Value) int64 {
	text := strings.ToUpper(strings.TrimSuffix(strings.TrimSpace(v.Str()), "B"))
	unit := int64(1)
	if at := strings.IndexAny("KMGT", text[max(0, len(text)-1):]); text != "" && at >= 0 {
		unit = 1 << (10 * (at + 1))
		text = text[:len(text)-1]
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if bytes := n * float64(unit); err == nil && bytes >= 0 && bytes < 1<<62 {
		return int64(bytes)
	}
	d.bad(v, "it is a size such as 512M or 2G")
	return 0
}
