// Command guest is PID 1 of the guests that the tests boot. It prints who it is, a nonce that
// lives in its memory only, and a tick; test=MODE on the kernel's command line says what else.
package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		os.MkdirAll(m[1], 0o755)
		unix.Mount(m[0], m[1], m[0], 0, "")
	}
	modules, _ := filepath.Glob("/modules/*.ko")
	for _, path := range modules {
		f, err := os.Open(path)
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
		}
		if err != nil {
			fmt.Println("MODULE", path, err)
		}
	}
	for _, name := range []string{"sys_vendor", "product_name", "product_uuid", "product_serial", "board_asset_tag", "chassis_asset_tag", "bios_vendor"} {
		b, _ := os.ReadFile("/sys/class/dmi/id/" + name)
		fmt.Printf("DMI %s=%s\n", name, strings.TrimSpace(string(b)))
	}
	interfaces, _ := filepath.Glob("/sys/class/net/*/address")
	for _, path := range interfaces {
		b, _ := os.ReadFile(path)
		mtu, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "mtu"))
		fmt.Printf("NET %s %s", strings.TrimSpace(string(b)), mtu)
	}
	serials, _ := filepath.Glob("/sys/class/block/*/serial")
	for _, path := range serials {
		b, _ := os.ReadFile(path)
		fmt.Printf("DISK %s\n", b)
	}
	var nonce [8]byte
	rand.Read(nonce[:])
	cmdline, _ := os.ReadFile("/proc/cmdline")
	mode := ""
	for _, w := range strings.Fields(string(cmdline)) {
		mode = strings.TrimPrefix(w, "test=")
	}
	fmt.Println("READY", mode)
	if mode == "obey" {
		inputs, _ := filepath.Glob("/dev/input/event*")
		for _, path := range inputs {
			go listen(path)
		}
	}
	cards := ""
	for n := 1; ; n++ {
		if now := macs(); now != cards {
			cards = now
			fmt.Println("CARDS" + cards + ".")
		}
		fmt.Printf("TICK %s %d\n", hex.EncodeToString(nonce[:]), n)
		if n == 3 {
			switch mode {
			case "poweroff":
				unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
			case "panic":
				os.WriteFile("/proc/sys/kernel/sysrq", []byte("1"), 0)
				os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
			case "flood":
				line := strings.Repeat("flood ", 170)
				for i := range 1000 {
					fmt.Println(i, line)
				}
				fmt.Println("FLOODED")
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// macs returns the hardware addresses of all network cards, sorted: a card that comes takes the first free name.
func macs() string {
	var list []string
	found, _ := filepath.Glob("/sys/class/net/e*/address")
	for _, path := range found {
		if b, err := os.ReadFile(path); err == nil { // else it is just going
			list = append(list, " "+strings.TrimSpace(string(b)))
		}
	}
	slices.Sort(list)
	return strings.Join(list, "")
}

// listen powers off at the button: struct input_event is a time, a type, a code and a value.
func listen(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	const evKey, keyPower = 1, 116
	b := make([]byte, 24)
	for {
		if _, err := f.Read(b); err != nil {
			return
		}
		if binary.LittleEndian.Uint16(b[16:]) == evKey && binary.LittleEndian.Uint16(b[18:]) == keyPower {
			fmt.Println("BUTTON")
			unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
	}
}
