# Looks for updates, or installs them and asks for a reboot (194) where one is needed. After the reboot it runs once more,
# and then there is nothing left to be done.
case $manager in
apt-get) apt-get -qy update >&2 ;;
apk) apk update >&2 ;;
esac
missing() {
	case $manager in
	apt-get) apt-get -s dist-upgrade | sed -n 's/^Inst \([^ ]*\) .*/\1/p' ;;
	dnf) dnf -q check-update | awk 'NF == 3 {print $1} /^Obsoleting/ {exit}' ;;
	apk) apk version -l '<' | sed -n 's/^\([^ ]*\) .*<.*/\1/p' ;;
	esac
}
waiting=$(missing)
count=$(printf '%s' "$waiting" | grep -c . || :)
echo "updates: $count"
if [ -n "$waiting" ]; then printf '%s\n' "$waiting"; fi
if [ "$OPERATION" = Scan ]; then exit 0; fi
if [ -n "$waiting" ]; then
	case $manager in
	apt-get) apt-get -qy -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold dist-upgrade ;;
	dnf) dnf -qy upgrade ;;
	apk) apk upgrade ;;
	esac
fi
needed=no
if [ -e /run/reboot-required ] || [ -e /var/run/reboot-required ]; then needed=yes; fi
if [ "$manager" = dnf ] && ! dnf -q needs-restarting -r >/dev/null 2>&1; then needed=yes; fi
if [ "$manager" = apk ] && printf '%s\n' "$waiting" | grep -q '^linux-'; then needed=yes; fi
echo "reboot needed: $needed"
if [ $needed = yes ] && [ "$REBOOT" = RebootIfNeeded ]; then exit 194; fi
