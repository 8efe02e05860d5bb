package provision

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// frequency is how often a stage is carried out.
type frequency int

const (
	always frequency = iota
	perInstance
	once
)

// stage is one step. Its name is that of cloud-init's module, if it has one, and so of the mark.
type stage struct {
	name  string
	often frequency
	of    string // the stage of cloud-init's status that it counts to
	do    func(*run, context.Context)
}

var stages = []stage{
	{"bootcmd", always, "init", (*run).bootcmd},
	{"write_files", perInstance, "init", func(r *run, _ context.Context) { r.files(false) }},
	{"growpart", always, "init", (*run).growpart},
	{"mounts", perInstance, "init", (*run).mounts},
	{"set_hostname", perInstance, "init", (*run).names},
	{"users_groups", perInstance, "init", (*run).accounts},
	{"ssh", perInstance, "init", (*run).keys},
	{"timezone", perInstance, "modules-config", (*run).timezone},
	{"runcmd", perInstance, "modules-config", (*run).runcmd},
	{"package_update_upgrade_install", perInstance, "modules-final", (*run).packages},
	{"write_files_deferred", perInstance, "modules-final", func(r *run, _ context.Context) { r.files(true) }},
	{"aws_config", perInstance, "modules-final", (*run).awsConfig}, // ours: packages may have brought the CLI, and scripts use it
	{"scripts_per_once", once, "modules-final", func(r *run, ctx context.Context) {
		r.scripts(ctx, "scripts_per_once", once, "/var/lib/cloud/scripts/per-once")
	}},
	{"scripts_per_boot", always, "modules-final", func(r *run, ctx context.Context) {
		r.scripts(ctx, "scripts_per_boot", always, "/var/lib/cloud/scripts/per-boot")
	}},
	{"scripts_per_instance", perInstance, "modules-final", func(r *run, ctx context.Context) {
		r.scripts(ctx, "scripts_per_instance", perInstance, "/var/lib/cloud/scripts/per-instance")
	}},
	{"scripts_user", perInstance, "modules-final", func(r *run, ctx context.Context) {
		r.scripts(ctx, "scripts_user", perInstance, r.instance("scripts"))
	}},
	{"final_message", always, "modules-final", (*run).finalMessage},
	{"power_state_change", perInstance, "modules-final", (*run).powerState},
}

// stage carries out a stage if it has not ended before, and marks its end.
func (r *run) stage(ctx context.Context, st stage) {
	r.status.enter(st.of)
	mark := r.mark(st.name, st.often)
	if r.marked(mark) {
		r.say("DEBUG", "%s is skipped: it has ended before", st.name)
		return
	}
	r.say("DEBUG", "%s begins", st.name)
	st.do(r, ctx)
	if ctx.Err() == nil { // one that was interrupted has not ended
		r.remember(mark)
	}
}

// mark is the file that says that something has ended; empty for what is always done.
func (r *run) mark(name string, often frequency) string {
	switch often {
	case perInstance:
		return r.instance("sem/config_" + name)
	case once:
		return "/var/lib/cloud/sem/config_" + name + ".once"
	}
	return ""
}

func (r *run) marked(mark string) bool {
	if mark == "" {
		return false
	}
	_, err := os.Stat(r.path(mark))
	return err == nil
}

func (r *run) remember(mark string) {
	if mark != "" {
		r.try(r.store(mark, fmt.Sprintf("%d: %d\n", os.Getpid(), r.Now().Unix()), 0o644))
	}
}

func (r *run) bootcmd(ctx context.Context) {
	if r.plan.Bootcmd == "" {
		return
	}
	file := r.instance("boothooks/.bootcmd")
	if r.try(r.store(file, r.plan.Bootcmd, 0o700)) {
		r.script(ctx, "bootcmd", Command{Argv: []string{"/bin/sh", r.path(file)}, Env: r.environment()})
	}
}

// environment is what early scripts get beside the usual.
func (r *run) environment() []string { return []string{"INSTANCE_ID=" + r.in.ID} }

// runcmd only stores its script, beside the user's: it runs with them, after packages are there.
func (r *run) runcmd(context.Context) {
	if r.plan.Runcmd != "" {
		r.try(r.store(r.instance("scripts/runcmd"), r.plan.Runcmd, 0o700))
	}
}

// scripts runs what is executable in a directory, in the order of names. Each is marked when it has ended.
func (r *run) scripts(ctx context.Context, stage string, often frequency, dir string) {
	list, err := os.ReadDir(r.path(dir))
	if err != nil {
		r.trouble("%s: %v", stage, err)
		return
	}
	for _, e := range list {
		if ctx.Err() != nil {
			return
		}
		info, err := os.Stat(filepath.Join(r.path(dir), e.Name())) // a link counts as what it leads to
		if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(e.Name(), unfinished) {
			continue
		}
		if info.Mode()&0o111 == 0 {
			r.say("WARNING", "%s: %s is not executable", stage, e.Name())
			continue
		}
		mark := r.mark(stage+"_"+e.Name(), often)
		if r.marked(mark) {
			continue
		}
		r.script(ctx, "script "+e.Name(), Command{Argv: []string{r.path(filepath.Join(dir, e.Name()))}})
		if ctx.Err() == nil {
			r.remember(mark)
		}
	}
}

// script runs one, with its output where output goes.
func (r *run) script(ctx context.Context, what string, c Command) {
	r.say("INFO", "%s starts", what)
	code, err := r.Commands.Run(ctx, c)
	switch {
	case ctx.Err() != nil: // it was ended for it
	case err != nil:
		r.trouble("%s could not be run: %v", what, err)
	case code != 0:
		r.trouble("%s ended with exit code %d", what, code)
	default:
		r.say("INFO", "%s ended well", what)
	}
}
