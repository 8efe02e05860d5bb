package provision

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/userdata/config"
)

// defaultUsers are the names that distributions' images have for who logs in.
var defaultUsers = map[string]string{"debian": "debian", "ubuntu": "ubuntu", "fedora": "fedora", "alpine": "alpine", "centos": "centos", "amzn": "ec2-user",
	"rhel": "ec2-user", "rocky": "rocky", "almalinux": "almalinux", "opensuse-leap": "opensuse", "arch": "arch"}

// usualGroups are those of the default user, where they exist.
var usualGroups = []string{"adm", "audio", "cdrom", "dialout", "dip", "floppy", "netdev", "plugdev", "sudo", "systemd-journal", "video", "wheel"}

// defaultUser is who gets the instance's keys; empty: nobody. Where no name is known it is root.
func (r *run) defaultUser() string {
	if !r.plan.DefaultUser {
		return ""
	}
	if name := defaultUsers[r.distro]; name != "" {
		return name
	}
	return "root"
}

// accounts makes groups, then users, then members of groups: a group may name users that are made here.
func (r *run) accounts(ctx context.Context) {
	for _, g := range r.plan.Groups {
		r.group(ctx, g.Name)
	}
	for _, u := range r.users() {
		r.user(ctx, u)
	}
	for _, g := range r.plan.Groups {
		for _, member := range g.Members {
			r.join(ctx, member, g.Name)
		}
	}
}

// users are the config's, and before them the default one. What the distribution says of that one stands; then what the
// config says of default counts, then what it says by the name. The distribution's groups are joined to those of the name.
func (r *run) users() []config.User {
	users := slices.Clone(r.plan.Users)
	name := r.defaultUser()
	if name == "" {
		return users
	}
	byDefault := r.plan.Default
	if name == "root" { // is there, has all rights, and is not locked out of the console
		if !reflect.DeepEqual(byDefault, config.User{}) {
			byDefault.Name, byDefault.Unlocked = name, true
			users = append([]config.User{byDefault}, users...)
		}
		return users
	}
	if byDefault.Shell != "" || byDefault.Gecos != "" || len(byDefault.Sudo) > 0 {
		r.say("WARNING", "users: shell, gecos and sudo of the default user are the distribution's: those that are given are not used")
	}
	u := config.User{Name: name, Gecos: name, Shell: r.bash(), Sudo: []string{"ALL=(ALL) NOPASSWD:ALL"}}
	u.Fill(byDefault)
	var byName config.User
	if i := slices.IndexFunc(users, func(u config.User) bool { return u.Name == name }); i >= 0 {
		byName = users[i]
		users = slices.Delete(users, i, i+1)
	}
	for _, g := range usualGroups {
		if r.entry("group", g) != nil && !slices.Contains(byName.Groups, g) {
			byName.Groups = append(byName.Groups, g)
		}
	}
	u.Fill(byName)
	return append([]config.User{u}, users...)
}

// bash is the shell that distributions give to people, where it is.
func (r *run) bash() string {
	if _, err := os.Stat(r.path("/bin/bash")); err == nil {
		return "/bin/bash"
	}
	return ""
}

// group makes a group that is not there.
func (r *run) group(ctx context.Context, name string) {
	switch {
	case r.entry("group", name) != nil:
	case r.Commands.Look("groupadd"):
		r.tool(ctx, "make group "+name, Command{Argv: []string{"groupadd", name}})
	default:
		gid := r.free("group")
		r.try(r.addLine("group", fmt.Sprintf("%s:x:%d:", name, gid)))
	}
}

// join puts a user into a group.
func (r *run) join(ctx context.Context, user, group string) {
	switch {
	case r.entry("passwd", user) == nil:
		r.trouble("group %s: user %s is not there", group, user)
	case r.Commands.Look("usermod"):
		r.tool(ctx, fmt.Sprintf("put %s into group %s", user, group), Command{Argv: []string{"usermod", "-a", "-G", group, user}})
	default:
		r.try(r.editLine("group", group, func(f []string) {
			members := strings.FieldsFunc(f[3], func(c rune) bool { return c == ',' })
			if !slices.Contains(members, user) {
				f[3] = strings.Join(append(members, user), ",")
			}
		}))
	}
}

// user makes a user that is not there; of one that is only what may change is set, as cloud-init has it.
func (r *run) user(ctx context.Context, u config.User) {
	for _, g := range append(slices.Clone(u.Groups), u.PrimaryGroup) {
		if g != "" {
			r.group(ctx, g)
		}
	}
	made := r.entry("passwd", u.Name) == nil
	if made && !r.makeUser(ctx, u) {
		return
	}
	if !made {
		r.say("INFO", "user %s is there already", u.Name)
	}
	if u.Hash != "" && made {
		r.password(ctx, u.Name, u.Hash, true)
	}
	if u.Password != "" {
		r.password(ctx, u.Name, u.Password, false)
	}
	if u.Rehash != "" {
		r.password(ctx, u.Name, u.Rehash, true)
	}
	if !u.Unlocked {
		r.lock(ctx, u.Name)
	}
	if len(u.Sudo) > 0 {
		r.try(r.sudo(u.Name, u.Sudo))
	}
	if len(u.Keys) > 0 {
		r.try(r.authorize(u.Name, u.Keys, ""))
	}
}

// makeUser makes one by the system's tool, or by its files where there is none, as in our small image.
func (r *run) makeUser(ctx context.Context, u config.User) bool {
	if !r.Commands.Look("useradd") {
		return r.try(r.writeUser(u, cmp.Or(u.Shell, r.bash(), "/bin/sh")))
	}
	argv := []string{"useradd"} // who knows the distribution's shell
	for _, o := range [][2]string{{"--shell", u.Shell}, {"--comment", u.Gecos}, {"--home-dir", u.Home}, {"--uid", u.UID}, {"--gid", u.PrimaryGroup},
		{"--groups", strings.Join(u.Groups, ",")}, {"--expiredate", u.Expire}, {"--inactive", u.Inactive}} {
		if o[1] != "" {
			argv = append(argv, o[0], o[1])
		}
	}
	for o, is := range map[string]bool{"--system": u.System, "--no-user-group": u.NoUserGroup && u.PrimaryGroup == ""} {
		if is {
			argv = append(argv, o)
		}
	}
	home := "--create-home"
	if u.NoHome || u.System {
		home = "--no-create-home"
	}
	return r.tool(ctx, "make user "+u.Name, Command{Argv: append(argv, home, "--", u.Name)})
}

// writeUser writes the lines that useradd writes, and makes the home.
func (r *run) writeUser(u config.User, shell string) error {
	if u.Expire != "" || u.Inactive != "" {
		r.trouble("user %s: expiredate and inactive need useradd, which this system has not", u.Name)
	}
	uid := r.free("passwd")
	if u.UID != "" {
		uid, _ = strconv.Atoi(u.UID) // digits: the decider saw to it
	}
	gid := uid
	group := u.PrimaryGroup
	if group == "" {
		group = u.Name
		if r.entry("group", group) == nil {
			if r.taken("group", gid) {
				gid = r.free("group")
			}
			if err := r.addLine("group", fmt.Sprintf("%s:x:%d:", group, gid)); err != nil {
				return err
			}
		}
	}
	if f := r.entry("group", group); f != nil {
		gid, _ = strconv.Atoi(f[2])
	}
	home := u.Home
	if home == "" {
		home = "/home/" + u.Name
	}
	if err := r.addLine("passwd", fmt.Sprintf("%s:x:%d:%d:%s:%s:%s", u.Name, uid, gid, u.Gecos, home, shell)); err != nil {
		return err
	}
	if err := r.addLine("shadow", u.Name+":!:"+strconv.FormatInt(r.Now().Unix()/86400, 10)+":0:99999:7:::"); err != nil {
		return err
	}
	for _, g := range u.Groups {
		r.join(context.Background(), u.Name, g) // by files too: there is no tool
	}
	if u.NoHome || u.System {
		return nil
	}
	if err := os.MkdirAll(r.path(home), 0o755); err != nil {
		return err
	}
	return r.chown(r.path(home), uid, gid)
}

// password sets one, or its hash. It goes through a pipe: arguments are for all to see.
func (r *run) password(ctx context.Context, user, secret string, hashed bool) {
	argv := []string{"chpasswd"}
	if hashed {
		argv = append(argv, "-e")
	}
	switch {
	case r.Commands.Look("chpasswd"):
		r.tool(ctx, "set the password of "+user, Command{Argv: argv, Input: user + ":" + secret + "\n"})
	case hashed:
		r.try(r.editLine("shadow", user, func(f []string) { f[1] = secret }))
	default:
		r.trouble("user %s: plain_text_passwd needs chpasswd, which this system has not: give passwd, a hash", user)
	}
}

// lock forbids passwords, and keeps keys.
func (r *run) lock(ctx context.Context, user string) {
	if r.Commands.Look("usermod") {
		r.tool(ctx, "lock the password of "+user, Command{Argv: []string{"usermod", "--lock", user}})
		return
	}
	if r.entry("shadow", user) == nil {
		return // no password is there to lock
	}
	r.try(r.editLine("shadow", user, func(f []string) {
		if !strings.HasPrefix(f[1], "!") {
			f[1] = "!" + f[1]
		}
	}))
}

// sudo writes the rules of a user, once.
func (r *run) sudo(user string, rules []string) error {
	const file = "/etc/sudoers.d/90-cloud-init-users"
	if !r.Commands.Look("sudo") {
		r.say("WARNING", "user %s has rules for sudo, which is not there", user)
	}
	text, err := os.ReadFile(r.path(file))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	have := strings.FieldsFunc(string(text), func(c rune) bool { return c == '\n' })
	for _, rule := range rules {
		if line := user + " " + rule; !slices.Contains(have, line) {
			have = append(have, line)
		}
	}
	if err := os.MkdirAll(r.path("/etc/sudoers.d"), 0o750); err != nil {
		return err
	}
	return r.store(file, strings.Join(have, "\n")+"\n", 0o440)
}
