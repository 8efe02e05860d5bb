# Installs, removes or updates $PACKAGES, a list of checked names; $VERSION is for the only one.
separator='='
if [ "$manager" = dnf ]; then separator=-; fi
wanted=$PACKAGES${VERSION:+$separator$VERSION}
case $manager-$ACTION in
apt-get-Install) apt-get -qy update && apt-get -qy install $wanted ;;
apt-get-Update) apt-get -qy update && apt-get -qy --only-upgrade --allow-downgrades install $wanted ;;
apt-get-Uninstall) apt-get -qy remove $PACKAGES ;;
dnf-Install) dnf -qy install $wanted ;;
dnf-Update) dnf -qy upgrade $wanted ;;
dnf-Uninstall) dnf -qy remove $PACKAGES ;;
apk-Install) apk add --update-cache $wanted ;;
apk-Update) apk add --update-cache --upgrade $wanted ;;
apk-Uninstall) apk del $PACKAGES ;;
esac
