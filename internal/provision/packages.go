package provision

import (
	"context"
	"os"
	"strings"
)

// manager is how a distribution's packages are had.
type manager struct {
	program                  string
	env                      []string
	update, upgrade, install []string
	pin                      string // between a name and its version
}

// managers in the order of looking: dnf's systems have a yum that is a link to it.
var managers = []manager{
	{program: "apt-get", env: []string{"DEBIAN_FRONTEND=noninteractive"}, update: apt("update"), upgrade: apt("dist-upgrade"), install: apt("install"), pin: "="},
	{program: "dnf", update: []string{"dnf", "-y", "makecache"}, upgrade: []string{"dnf", "-y", "upgrade"}, install: []string{"dnf", "-y", "install"}, pin: "-"},
	{program: "yum", update: []string{"yum", "-y", "makecache"}, upgrade: []string{"yum", "-y", "update"}, install: []string{"yum", "-y", "install"}, pin: "-"},
	{program: "apk", update: []string{"apk", "update"}, upgrade: []string{"apk", "upgrade"}, install: []string{"apk", "add"}, pin: "="},
}

// apt keeps an author's configuration files, and waits for what else uses it at boot.
func apt(what string) []string {
	return []string{"apt-get", "-y", "-q", "-o", "Dpkg::Options::=--force-confold", "-o", "DPkg::Lock::Timeout=300", what}
}

// packages brings the lists, the packages that are there, and those that are wanted, up to date.
func (r *run) packages(ctx context.Context) {
	p := r.plan
	if !p.Update && !p.Upgrade && len(p.Packages) == 0 {
		return
	}
	var m manager
	for _, candidate := range managers {
		if m.program == "" && r.Commands.Look(candidate.program) {
			m = candidate
		}
	}
	var names []string
	for _, want := range p.Packages {
		name := want.Name
		if want.Version != "" {
			name += m.pin + want.Version
		}
		names = append(names, name)
	}
	if m.program == "" {
		what := "nothing is updated"
		if len(names) > 0 {
			what = strings.Join(names, ", ") + ": not installed"
		}
		r.trouble("packages: this system has no apt-get, dnf, yum or apk; %s", what)
		return
	}
	r.script(ctx, m.program+" update", Command{Argv: m.update, Env: m.env})
	if p.Upgrade && ctx.Err() == nil {
		r.script(ctx, m.program+" upgrade", Command{Argv: m.upgrade, Env: m.env})
	}
	if len(names) > 0 && ctx.Err() == nil {
		r.script(ctx, m.program+" install "+strings.Join(names, " "), Command{Argv: append(append([]string{}, m.install...), names...), Env: m.env})
	}
	if _, err := os.Stat(r.path("/run/reboot-required")); p.Reboot && err == nil && ctx.Err() == nil {
		r.say("WARNING", "packages ask for a new start of the machine: what is left is done after it")
		r.reboot = true
	}
}
