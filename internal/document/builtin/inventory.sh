# Prints the installed packages as a list in JSON. What distributions have in names and versions needs no escape; what does
# is left out.
set -eu
list() {
	if command -v dpkg-query >/dev/null 2>&1; then
		dpkg-query -W -f '${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n' | sed -n 's/^installed\t//p'
	elif command -v rpm >/dev/null 2>&1; then
		rpm -qa --qf '%{NAME}\t%{EVR}\t%{ARCH}\n'
	elif command -v apk >/dev/null 2>&1; then
		awk -F: '/^P:/ {p = $2} /^V:/ {v = $2} /^A:/ {a = $2} /^$/ && p != "" {print p "\t" v "\t" a; p = ""}' /lib/apk/db/installed
	else
		echo "this system has none of dpkg, rpm and apk" >&2
		return 1
	fi
}
packages=$(list)
printf '%s\n' "$packages" | LC_ALL=C sort | awk -F '\t' '
	BEGIN {printf "{\"TypeName\":\"AWS:Application\",\"Content\":["}
	/["\\]/ {next}
	NF == 3 {printf "%s\n{\"Name\":\"%s\",\"Version\":\"%s\",\"Architecture\":\"%s\"}", (n++ ? "," : ""), $1, $2, $3}
	END {print "\n]}"}'
