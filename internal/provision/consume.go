package provision

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/userdata"
	"github.com/ichiro-metal/ichiro/internal/userdata/config"
	"github.com/ichiro-metal/ichiro/internal/userdata/jinja"
	"github.com/ichiro-metal/ichiro/internal/userdata/parts"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// imageConfigs are what an image wants for all its instances, below what user data says.
const imageConfigs = "/etc/ichiro/provision.d"

// consume reads the user data: scripts are stored, boothooks run, cloud-configs become the plan.
func (r *run) consume(ctx context.Context) {
	list, troubles := parts.Expand(ctx, r.in.UserData, parts.Options{Get: r.in.Get, LaunchIndex: r.in.LaunchIndex,
		Kept: func(url string) ([]byte, bool) {
			body, err := os.ReadFile(r.path(r.kept(url)))
			return body, err == nil
		},
		Keep: func(url string, body []byte) { r.try(r.store(r.kept(url), string(body), 0o600)) },
	})
	r.status.enter("init")
	for _, err := range troubles {
		r.trouble("%v", err)
	}
	var configs []userdata.Part
	taken := map[string]bool{}
	for _, p := range list {
		if p.Kind == userdata.Template && !r.fill(ctx, &p) {
			continue
		}
		if p.Kind == userdata.CloudConfig {
			configs = append(configs, p)
			continue
		}
		if place := string(p.Kind) + " " + p.Name; taken[place] {
			r.trouble("%s: two parts have this name: only the later is done", p.Name)
		} else {
			taken[place] = true
		}
		r.part(ctx, p)
	}
	root, report := config.Merge(configs)
	r.report(report)
	plan, report := config.Decide(config.Under(root, r.image()))
	r.report(report)
	r.plan = plan
}

// kept is where an include-once keeps what it read.
func (r *run) kept(url string) string {
	sum := sha256.Sum256([]byte(url))
	return r.instance("sem/include_" + hex.EncodeToString(sum[:16]))
}

// image reads the image's own configs.
func (r *run) image() *yaml.Value {
	names, _ := filepath.Glob(r.path(imageConfigs + "/*.cfg")) // the pattern is well-formed
	sort.Strings(names)
	var list []userdata.Part
	for _, name := range names {
		text, err := os.ReadFile(name)
		if r.try(err) {
			list = append(list, userdata.Part{Kind: userdata.CloudConfig, Name: filepath.Base(name), Body: text})
		}
	}
	root, report := config.Merge(list)
	r.report(report)
	return root
}

// fill makes of a template what it is a template of.
func (r *run) fill(ctx context.Context, p *userdata.Part) bool {
	data, err := r.in.Data(ctx)
	if err != nil {
		r.trouble("%s: read the instance's data for the template: %v", p.Name, err)
		return false
	}
	text, missing, err := jinja.Render(string(p.Body), data)
	if err != nil {
		r.trouble("%s: %v", p.Name, err)
		return false
	}
	for _, name := range missing {
		r.say("WARNING", "%s: the instance's data have no %.100s", p.Name, name)
	}
	p.Body = []byte(text)
	p.Kind = userdata.Sniff(p.Body)
	switch p.Kind {
	case userdata.Script, userdata.CloudConfig, userdata.Boothook:
		return true
	case userdata.Empty:
		return false
	}
	r.trouble("%s: a template is one of #cloud-config, of a script or of a boothook: the line after its mark says so, and here it does not", p.Name)
	return false
}

// part stores a script where its frequency has it, or runs a boothook.
func (r *run) part(ctx context.Context, p userdata.Part) {
	dir := map[userdata.Kind]string{
		userdata.Script: r.instance("scripts"), userdata.PerBoot: "/var/lib/cloud/scripts/per-boot",
		userdata.PerInstance: "/var/lib/cloud/scripts/per-instance", userdata.PerOnce: "/var/lib/cloud/scripts/per-once",
		userdata.Boothook: r.instance("boothooks"),
	}[p.Kind]
	if dir == "" {
		r.trouble("%s: nothing is done with a part of the kind %s", p.Name, p.Kind)
		return
	}
	body := p.Body
	if p.Kind == userdata.Boothook {
		body = boothook(body)
	}
	body, err := userdata.Executable(body)
	if err != nil {
		r.trouble("%s: %v", p.Name, err)
		return
	}
	file := filepath.Join(dir, p.Name)
	if !r.try(r.store(file, string(body), 0o700)) || p.Kind != userdata.Boothook {
		return
	}
	r.script(ctx, "boothook "+p.Name, Command{Argv: []string{r.path(file)}, Env: r.environment()})
}

// boothook is the script behind the mark. One without a first line of its own is for sh, as the kernel's refusal has the
// shell take it.
func boothook(body []byte) []byte {
	body = bytes.TrimLeft(body, " \t\r\n")
	const mark = "#cloud-boothook"
	if len(body) >= len(mark) && strings.EqualFold(string(body[:len(mark)]), mark) {
		body = bytes.TrimLeft(body[len(mark):], " \t\r\n")
	}
	if !bytes.HasPrefix(body, []byte("#!")) {
		body = fmt.Appendf(nil, "#!/bin/sh\n%s", body)
	}
	return body
}
