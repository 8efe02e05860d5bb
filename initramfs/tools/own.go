package tools

import (
	"errors"
	"fmt"
	"strings"
)

// own are the tools that are written here. A function, for the same reason as library.
func own() map[string]tool {
	return map[string]tool{
		"basename": basename, "chown": chown, "curl": curl, "cut": cut, "date": date, "df": df, "dirname": dirname,
		"dmesg": dmesg, "env": env, "free": free, "grep": grep, "halt": halt, "head": head, "hostname": hostname,
		"id": id, "ip": ip, "kill": kill, "ln": ln, "ls": ls, "lsmod": lsmod, "md5sum": digest, "mount": mount, "nohup": nohup,
		"nproc": nproc, "ping": ping, "poweroff": halt, "printenv": printenv, "ps": ps, "readlink": readlink, "realpath": readlink,
		"reboot": halt, "rmdir": rmdir, "sed": sed, "seq": seq, "sha1sum": digest, "sha256sum": digest,
		"sha512sum": digest, "sleep": sleep, "sort": sortLines, "stat": stat, "sync": syncAll, "tail": tail, "tee": tee,
		"timeout": timeout, "tr": tr, "umount": umount, "uname": uname, "uniq": uniq, "uptime": uptime, "wc": wc,
		"wget": wget, "which": which, "whoami": whoami,
	}
}

var errUnknown = errors.New("unknown option")

// options takes leading options off args. spec lists the letters that are known; one followed by a
// colon has a value. Letters may stand together, values may be glued on.
func options(args []string, spec string) (set map[byte]string, rest []string, err error) {
	set = map[byte]string{}
	for len(args) > 0 {
		a := args[0]
		if len(a) < 2 || a[0] != '-' {
			break
		}
		args = args[1:]
		if a == "--" {
			break
		}
		for i := 1; i < len(a); i++ {
			at := strings.IndexByte(spec, a[i])
			if at < 0 || a[i] == ':' {
				return nil, nil, fmt.Errorf("%w %s", errUnknown, a)
			}
			if at+1 >= len(spec) || spec[at+1] != ':' {
				set[a[i]] = ""
				continue
			}
			value := a[i+1:]
			if value == "" {
				if len(args) == 0 {
					return nil, nil, fmt.Errorf("option -%c needs a value", a[i])
				}
				value, args = args[0], args[1:]
			}
			set[a[i]] = value
			break
		}
	}
	return set, args, nil
}

func has(set map[byte]string, letter byte) bool {
	_, ok := set[letter]
	return ok
}
