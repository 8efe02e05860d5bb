package provision

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// names sets the host's name: the config's, or else the metadata's.
func (r *run) names(context.Context) {
	if r.plan.PreserveHostname {
		return
	}
	fqdn, short := r.plan.FQDN, r.plan.Hostname
	if fqdn == "" && (strings.Contains(short, ".") || short == "") {
		fqdn = short
		if short = ""; fqdn == "" {
			fqdn = r.in.Hostname
		}
	}
	if short == "" {
		short, _, _ = strings.Cut(fqdn, ".")
	}
	name := short
	if r.plan.PreferFQDN && fqdn != "" {
		name = fqdn
	}
	if name == "" {
		return
	}
	if name = name[:min(len(name), 64)]; r.try(r.Sethostname(name)) {
		r.try(r.store("/etc/hostname", name+"\n", 0o644))
	}
	if r.plan.ManageHosts || r.small() {
		r.try(r.hosts(fqdn, short))
	}
}

// hosts puts the names at 127.0.1.1, where Debian has them.
func (r *run) hosts(fqdn, short string) error {
	const own = "127.0.1.1"
	text, err := os.ReadFile(r.path("/etc/hosts"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 0 || f[0] != own {
			kept.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	if kept.Len() == 0 {
		kept.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	}
	names := short
	if fqdn != "" && fqdn != short {
		names = fqdn + " " + short
	}
	return r.store("/etc/hosts", kept.String()+own+" "+names+"\n", 0o644)
}

func (r *run) timezone(context.Context) {
	zone := r.plan.Timezone
	if zone == "" {
		return
	}
	file := filepath.Join("/usr/share/zoneinfo", zone)
	if _, err := os.Stat(r.path(file)); err != nil {
		r.trouble("timezone: this system has no %s", file)
		return
	}
	if r.distro == "debian" || r.distro == "ubuntu" { // who keep the name too
		r.try(r.store("/etc/timezone", zone+"\n", 0o644))
	}
	link := r.path("/etc/localtime")
	os.Remove(link + ".tmp")
	err := os.Symlink(file, link+".tmp")
	if err == nil {
		err = os.Rename(link+".tmp", link)
	}
	r.try(err)
}

// finalMessage says that all is done, and how long it took since the kernel started.
func (r *run) finalMessage(context.Context) {
	message := r.plan.FinalMessage
	uptime := "?"
	if text, err := os.ReadFile(r.path("/proc/uptime")); err == nil {
		uptime, _, _ = strings.Cut(string(text), " ")
	}
	now := r.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 +0000")
	if message == "" {
		message = "ichiro: provisioned, up $UPTIME seconds"
	}
	// The names that cloud-init has, in either spelling, with and without braces.
	var pairs []string
	for _, v := range [][2]string{{"uptime", uptime}, {"timestamp", now}, {"version", "ichiro"}, {"datasource", dataSource}} {
		for _, name := range []string{v[0], strings.ToUpper(v[0])} {
			pairs = append(pairs, "$"+name, v[1], "${"+name+"}", v[1])
		}
	}
	fmt.Fprintln(r.Console, strings.TrimRight(strings.NewReplacer(pairs...).Replace(message), "\n"))
	r.try(r.store(r.instance("boot-finished"), uptime+" - "+now+"\n", 0o644))
}
