# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=sh
#
# The virtual machine in which scripts/check-kvm runs KVM when the host has
# none: the initial ramdisk of its Linux.  Sourced, after scripts/lib.sh.
#
# It has two parts, one archive behind the other (Linux takes that): what is
# big and seldom changes, kept in GODWIT_DEPS/kvm-image, and what is to be
# tested, made anew each time.  Needs $work, a folder for what is temporary.
: "${checkout:?}" "${work:?}"

# pack FOLDER: as an archive, to stdout
pack()
{
	(cd "$1" && find . | LC_ALL=C sort |
		cpio --quiet -o -H newc -R 0:0 --reproducible)
}

# libraries FILE: those of the system that FILE is linked with, as paths
libraries()
{
	LC_ALL=C ldd "$1" | awk '
	$2 == "=>" && $3 ~ /^\// { print $3 }'
}

# interpreter FILE: the path of its dynamic loader
interpreter()
{
	LC_ALL=C ldd "$1" | awk '$1 ~ /^\/.*ld.*\.so/ && $2 != "=>" {
		print $1 }'
}

# add_module ROOT TREE MODULE: unpack it after all that it needs, and note the
# order.  Every module names what it needs in its own "depends=A,B" string.
# (Recursion: the body is a subshell.)
add_module()
(
	to=$1/modules/$3.ko
	[ ! -e "$to" ] || exit 0
	# a name may have a dash where others write an underscore
	pattern=$(echo "$3" | sed 's/_/[-_]/g')
	from=$(find "$2/modules/kernel" -name "$pattern.ko*" | head -n 1)
	case $from in
	*.ko)	cp "$from" "$to" ;;
	*.xz)	xz -dc "$from" >"$to" ;;
	*.zst)	zstd -qdc "$from" >"$to" ;;
	*.gz)	gzip -dc "$from" >"$to" ;;
	*)
		grep -q "/$pattern\.ko" "$2/modules/modules.builtin" ||
			die "the kernel in $2 has no module $3"
		exit 0 ;;
	esac
	for need in $(tr '\0' '\n' <"$to" | sed -n 's/^depends=//p' |
		      tr ',-' ' _'); do
		add_module "$1" "$2" "$need"
	done
	echo "$3" >>"$1/modules/order"
)

# make_base QEMU KERNEL (in a subshell, as it keeps a lock): print the path of
# the part that seldom changes: the QEMU program made by scripts/get-qemu with
# the libraries and the firmware that a PC without a display needs, the modules
# of KVM, busybox.
make_base()
{
	out=$GODWIT_DEPS/kvm-image/base.cpio
	busybox=$(command -v busybox) ||
		die "no busybox; run scripts/install-deps guest"
	home=${1%/*}
	tree=$home/root # unpacked packages
	mkdir -p "${out%/*}"
	lock kvm-image
	if [ -e "$out" ] && [ -z "$(find "$checkout/tests/kvm/image.sh" "$1" \
		"$tree/PACKAGES" "$2/PACKAGES" "$busybox" \
		-newer "$out")" ]; then
		echo "$out"
		return
	fi
	LC_ALL=C ldd "$busybox" 2>&1 | grep -q -e 'not a dynamic' -e static ||
		die "$busybox is not static; run scripts/install-deps guest"

	say "making the ramdisk of the virtual machine for KVM: $out"
	root=$work/base
	mkdir -p "$root/bin" "$root/modules" "$root/qemu"
	cp -L "$busybox" "$root/bin/busybox"
	ln -s busybox "$root/bin/sh"
	: >"$root/modules/order"
	add_module "$root" "$2" kvm_amd

	# The same layout as at home: the program is a script that finds its
	# tree beside it.
	cp "$1" "$root/qemu/qemu-system-x86_64"
	loader=$(cd "$home" && find root -name 'ld-linux-x86-64.so.2' |
		 grep '/lib/x86_64-linux-gnu/' | head -n 1)
	path=$(sed -n 's/^\t--library-path "\(.*\)" \\$/\1/p' "$1" |
	       sed "s|\$root|$tree|g")
	"$home/$loader" --library-path "$path" --list \
		"$tree/usr/bin/qemu-system-x86_64" |
	awk -v home="$home/" '$3 ~ /^\// {
		if (index($3, home) != 1)
			exit 1
		print substr($3, length(home) + 1)
	}' >"$work/files" ||
		die "QEMU in $home is not complete: it uses the system's libraries"
	{
		echo "$loader"
		echo root/usr/bin/qemu-system-x86_64
		(cd "$home" && find root/usr/share -name bios-256k.bin \
			-o -name kvmvapic.bin -o -name pvh.bin)
	} >>"$work/files"
	while read -r file; do
		mkdir -p "$root/qemu/${file%/*}"
		cp -L "$home/$file" "$root/qemu/$file"
	done <"$work/files"
	pack "$root" >"$out.part"
	mv "$out.part" "$out"
	rm -rf "$root"
	echo "$out"
}

# make_image BASE BUILD GUEST SETTINGS OUT: the whole ramdisk
make_image()
{
	root=$work/top
	mkdir -p "$root/godwit/cli" "$root/godwit/agent" "$root/lib" \
		 "$root/guest" "$root/test"
	cp "$2/cli/godwit" "$root/godwit/cli/"
	cp "$2/agent/godwit-agent.so" "$root/godwit/agent/"
	for file in $(libraries "$2/cli/godwit"); do
		cp -L "$file" "$root/lib/"
	done
	file=$(interpreter "$2/cli/godwit")
	mkdir -p "$root${file%/*}"
	cp -L "$file" "$root$file"
	cp -L "$3/vmlinux" "$3/initrd.gz" "$3/disk.img" "$root/guest/"
	cp "$checkout/tests/kvm/init" "$root/init"
	cp "$checkout/tests/kvm/move" "$root/test/"
	echo "$4" >"$root/test/settings"
	chmod 755 "$root/init" "$root/test/move"
	{ cat "$1" && pack "$root"; } >"$5"
	rm -rf "$root"
}
