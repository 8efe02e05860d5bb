# The package manager of this distribution.
set -eu
PATH=${PATH:-/usr/sbin:/usr/bin:/sbin:/bin}
export PATH DEBIAN_FRONTEND=noninteractive
for manager in apt-get dnf apk none; do
	if command -v "$manager" >/dev/null 2>&1; then break; fi
done
if [ "$manager" = none ]; then
	echo "this system has none of apt-get, dnf and apk" >&2
	exit 1
fi
