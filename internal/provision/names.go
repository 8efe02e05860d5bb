package provision

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/pattern"
	"github.com/ichiro-metal/ichiro/internal/userdata"
	"github.com/ichiro-metal/ichiro/internal/userdata/config"
	"github.com/ichiro-metal/ichiro/internal/userdata/jinja"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// names sets the host's name, and writes its line of hosts also where the name itself is to stay.
func (r *run) names(context.Context) {
	fqdn, short := named(r.plan, r.in.Hostname)
	name := short
	if r.plan.PreferFQDN {
		name = fqdn
	}
	if name == "" {
		return
	}
	if name = name[:min(len(name), 64)]; !r.plan.PreserveHostname && r.try(r.Sethostname(name)) {
		r.try(r.store("/etc/hostname", name+"\n", 0o644))
	}
	if r.plan.ManageHosts || r.small() {
		r.try(r.hosts(fqdn, short))
	}
}

// named are the names that a host gets: the config's, where it has them, and else the metadata's. A short name alone leaves
// the full one as it was.
func named(p config.Plan, metadata string) (fqdn, short string) {
	fqdn, short = p.FQDN, p.Hostname
	if fqdn == "" && strings.Contains(short, ".") {
		fqdn, short = short, ""
	}
	if fqdn == "" {
		fqdn = metadata
	}
	if short == "" {
		short, _, _ = strings.Cut(fqdn, ".")
	}
	return cmp.Or(fqdn, short), short
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
	uptime := "?"
	if text, err := os.ReadFile(r.path("/proc/uptime")); err == nil {
		uptime, _, _ = strings.Cut(string(text), " ")
	}
	now := r.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 +0000")
	message := strings.TrimSpace(r.plan.FinalMessage)
	if message == "" {
		message = "ichiro: provisioned, up $UPTIME seconds"
	}
	fmt.Fprintln(r.Console, r.message(message, map[string]string{"uptime": uptime, "timestamp": now, "version": "ichiro", "datasource": dataSource}))
	r.try(r.store(r.instance("boot-finished"), uptime+" - "+now+"\n", 0o644))
}

// variable is a name in a text that is no jinja template.
var variable = pattern.New(`\$(\w+|\{[\w.]+\})`)

// message puts values into a text, by names in lower or upper case: $uptime, or {{ uptime }} below the mark of jinja.
func (r *run) message(template string, values map[string]string) string {
	if userdata.Sniff([]byte(template)) == userdata.Template {
		data := &yaml.Value{Kind: yaml.Map}
		for name, v := range values {
			data.Map = append(data.Map, yaml.Entry{Key: text(name), Value: text(v)}, yaml.Entry{Key: text(strings.ToUpper(name)), Value: text(v)})
		}
		out, missing, err := jinja.Render(template, data)
		r.try(err)
		for _, name := range missing {
			r.trouble("final_message: there is no %.60s", name)
		}
		return out
	}
	return variable.ReplaceAllStringFunc(template, func(word string) string {
		name := strings.Trim(word, "${}")
		v, ok := values[name]
		if !ok {
			v, ok = values[strings.ToLower(name)]
			ok = ok && name == strings.ToUpper(name)
		}
		if !ok {
			r.trouble("final_message: there is no %.60s", word)
			return word
		}
		return v
	})
}
