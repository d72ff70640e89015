/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmdline_test.c - which command line becomes which, and which are refused
 * with what words; the properties of one option (option.h) beside it.
 */
#include "test.h"

#include <errno.h>

#include "vm/qemu/cmdline.h"
#include "vm/qemu/option.h"

#define GIB (1ULL << 30)

static struct gw_qemu_machine machines[] = {
	{ "none", "", "", false, false },
	{ "pc-i440fx-10.0", "pc", "pc.ram", true, false },
	{ "pc-q35-10.0", "q35", "pc.ram", false, false },
	{ "microvm", "", "microvm.ram", false, false },
	{ "x-remote", "", "", false, false },
	{ "nitro", "", "ram", false, false },
};

static struct gw_qemu_probe probe = {
	.major = 10, .machine = machines,
	.nmachines = sizeof(machines) / sizeof(*machines), .arch = "x86_64",
};

static const struct gw_cmdline_request plain = {
	.dir = "/r/vm", .agent_path = "/a.so", .first_fd = 200,
	.probe = &probe,
};

static struct gw_error err;

/* @line: words apart by blanks; a '~' is a blank inside a word. */
static int rewrite(const char *line, const struct gw_cmdline_request *req,
		   struct gw_cmdline *out)
{
	static char copy[8192];
	char *argv[200], *p = copy;
	int n = 0;

	memset(&err, 0, sizeof(err));
	snprintf(copy, sizeof(copy), "qemu%s%s", *line ? " " : "", line);
	while ((argv[n] = strsep(&p, " ")))
		for (char *c = argv[n++]; *c; c++)
			if (*c == '~')
				*c = ' ';
	return gw_cmdline_rewrite(argv, req, out, &err);
}

static const char *join(const struct gw_cmdline *c)
{
	static char text[16384];
	char *p = text;

	*p = '\0';
	for (int i = 1; i < c->argc; i++)
		p += sprintf(p, "%s%s", i > 1 ? " " : "", c->argv[i]);
	return text;
}

#define FILE_(id, size, fd)                                                 \
	"-object memory-backend-file,id=" id ",size=" size                  \
	",mem-path=/proc/self/fd/" fd ",share=on"
#define RAM(size)  FILE_("pc.ram", size, "200") " -machine memory-backend=pc.ram"
#define MONITORS   "-readconfig /r/vm/monitors.cfg"
#define M128	   "134217728"
#define M512	   "536870912"
#define G1	   "1073741824"

struct good {
	const char *in, *out; /* @out without MONITORS, which ends it */
	uint64_t memory;
	const char *note; /* part of a note; NULL: there is none */
};

static const struct good good[] = {
	/* how much RAM */
	{ "", RAM(M128), 0, NULL },
	{ "-m 512", "-m 512 " RAM(M512), 0, NULL },
	{ "-m 512M", "-m 512M " RAM(M512), 0, NULL },
	{ "-m 1G", "-m 1G " RAM(G1), 0, NULL },
	{ "--m 1g", "--m 1g " RAM(G1), 0, NULL },
	{ "-m 0.5G", "-m 0.5G " RAM(M512), 0, NULL },
	{ "-m 524288k", "-m 524288k " RAM(M512), 0, NULL },
	{ "-m 536870912b", "-m 536870912b " RAM(M512), 0, NULL },
	{ "-m 0", "-m 0 " RAM(M128), 0, NULL },
	{ "-m size=512,slots=2,maxmem=4G",
	  "-m size=512,slots=2,maxmem=4G " RAM(M512), 0, NULL },
	{ "-m 1G,slots=2,maxmem=4G", "-m 1G,slots=2,maxmem=4G " RAM(G1), 0,
	  NULL },
	{ "-m slots=2,maxmem=4G", "-m slots=2,maxmem=4G " RAM(M128), 0, NULL },
	{ "-m 512 -m 1G", "-m 512 -m 1G " RAM(G1), 0, NULL },
	{ "-m 1G -m slots=2,maxmem=4G",
	  "-m 1G -m slots=2,maxmem=4G " RAM(G1), 0, NULL },
	{ "-M pc,memory.size=1G", "-M pc,memory.size=1G " RAM(G1), 0, NULL },
	{ "-m 1000001b", "-m 1000001b " RAM("1007616"), 0, NULL },
	{ "", "-m 1048576K " RAM(G1), GIB, NULL },
	{ "-m 512,slots=2,maxmem=4G",
	  "-m 512,slots=2,maxmem=4G -m 1048576K " RAM(G1), GIB, NULL },

	/* which machine */
	{ "-machine q35", "-machine q35 " RAM(M128), 0, NULL },
	{ "-machine type=q35,accel=kvm", "-machine type=q35,accel=kvm " RAM(M128),
	  0, NULL },
	{ "-machine accel=tcg -M pc-q35-10.0,usb=off",
	  "-machine accel=tcg -M pc-q35-10.0,usb=off " RAM(M128), 0, NULL },
	{ "-M microvm",
	  "-M microvm " FILE_("microvm.ram", M128, "200") " -machine memory-backend=microvm.ram",
	  0, NULL },
	{ "-M nitro",
	  "-M nitro " FILE_("ram", M128, "200") " -machine memory-backend=ram",
	  0, NULL },

	/* arguments that look like options, and disk images */
	{ "-append -m~5 -kernel -daemonize -m 512",
	  "-append -m 5 -kernel -daemonize -m 512 " RAM(M512), 0, NULL },
	{ "-daemonize disk.img -m 512",
	  "-daemonize disk.img -m 512 " RAM(M512), 0, NULL },
	{ "-snapshot -nographic -name a,process=b -no-reboot -S",
	  "-snapshot -nographic -name a,process=b -no-reboot -S " RAM(M128),
	  0, NULL },
	{ "-drive file=a,,b,if=virtio -blockdev driver=file,node-name=x,filename=/x",
	  "-drive file=a,,b,if=virtio -blockdev driver=file,node-name=x,filename=/x " RAM(M128),
	  0, NULL },

	/* what godwit can see already stays */
	{ "-m 1G -object memory-backend-file,id=mem,size=1G,mem-path=/dev/shm,share=on -machine memory-backend=mem",
	  "-m 1G -object memory-backend-file,id=mem,size=1G,mem-path=/dev/shm,share=on -machine memory-backend=mem",
	  0, NULL },
	{ "-object memory-backend-file,id=m0,share=yes,size=512M,mem-path=/x -numa node,memdev=m0 -m 512",
	  "-object memory-backend-file,id=m0,share=yes,size=512M,mem-path=/x -numa node,memdev=m0 -m 512",
	  0, NULL },
	{ "-object {\"qom-type\":\"memory-backend-file\",\"id\":\"pc.ram\",\"mem-path\":\"/x\",\"share\":true,\"size\":1073741824} -machine pc,memory-backend=pc.ram -m 1G",
	  "-object {\"qom-type\":\"memory-backend-file\",\"id\":\"pc.ram\",\"mem-path\":\"/x\",\"share\":true,\"size\":1073741824} -machine pc,memory-backend=pc.ram -m 1G",
	  0, NULL },

	/* what it cannot see is converted */
	{ "-m 1G -object memory-backend-ram,id=pc.ram,size=1G -machine pc,memory-backend=pc.ram",
	  "-m 1G -object memory-backend-file,id=pc.ram,size=1G,mem-path=/proc/self/fd/200,share=on -machine pc,memory-backend=pc.ram",
	  0, "'pc.ram': memory-backend-ram became" },
	{ "-object memory-backend-memfd,id=m,size=512M,share=on,prealloc=on,merge=off,dump=off,hugetlb=off,seal=on -machine memory-backend=m",
	  "-object memory-backend-file,id=m,size=512M,share=on,prealloc=on,merge=off,dump=off,mem-path=/proc/self/fd/200 -machine memory-backend=m",
	  0, "'m': memory-backend-memfd became" },
	{ "-object memory-backend-shm,id=m,size=512M -machine memory-backend=m",
	  "-object memory-backend-file,id=m,size=512M,mem-path=/proc/self/fd/200,share=on -machine memory-backend=m",
	  0, "memory-backend-shm became" },
	{ "-object qom-type=memory-backend-ram,id=m,size=512M,share=off -machine memory-backend=m",
	  "-object memory-backend-file,id=m,size=512M,share=on,mem-path=/proc/self/fd/200 -machine memory-backend=m",
	  0, "became" },
	{ "-m 1G -object memory-backend-ram,id=r0,size=512M,host-nodes=0,policy=bind -object memory-backend-memfd,id=r1,size=512M -numa node,memdev=r0 -numa node,memdev=r1",
	  "-m 1G -object memory-backend-file,id=r0,size=512M,host-nodes=0,policy=bind,mem-path=/proc/self/fd/200,share=on -object memory-backend-file,id=r1,size=512M,mem-path=/proc/self/fd/201,share=on -numa node,memdev=r0 -numa node,memdev=r1",
	  0, "'r1'" },
	{ "-m 512,slots=2,maxmem=4G -object memory-backend-ram,id=d0,size=1G -device pc-dimm,memdev=d0",
	  "-m 512,slots=2,maxmem=4G -object memory-backend-file,id=d0,size=1G,mem-path=/proc/self/fd/200,share=on -device pc-dimm,memdev=d0 " FILE_("pc.ram", M512, "201") " -machine memory-backend=pc.ram",
	  0, "'d0'" },
	{ "-mem-path /dev/hugepages -mem-prealloc -m 1G",
	  "-mem-prealloc -m 1G " RAM(G1), 0, "-mem-path /dev/hugepages" },

	/* incoming */
	{ "-incoming defer", "-incoming defer " RAM(M128) " -S", 0, NULL },
	{ "-S -incoming defer", "-S -incoming defer " RAM(M128), 0, NULL },

	/* nothing against these */
	{ "-netdev tap,id=n,vhost=off -device virtio-net-pci,netdev=n",
	  "-netdev tap,id=n,vhost=off -device virtio-net-pci,netdev=n " RAM(M128),
	  0, NULL },
	{ "-chardev socket,id=c,path=/vhost-user.sock",
	  "-chardev socket,id=c,path=/vhost-user.sock " RAM(M128), 0, NULL },
	{ "-object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r",
	  "-object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r " RAM(M128),
	  0, NULL },
	{ "-device nvme,drive=d,serial=1 -device ich9-intel-hda",
	  "-device nvme,drive=d,serial=1 -device ich9-intel-hda " RAM(M128), 0,
	  NULL },
	{ "-netdev passt,id=n,vhost-user=off",
	  "-netdev passt,id=n,vhost-user=off " RAM(M128), 0, NULL },
	{ "-readconfig a.cfg -m 512", "-readconfig a.cfg -m 512 " RAM(M512), 0,
	  "-readconfig a.cfg is not looked into" },

	/* as libvirt 9 and 10 write them (shortened) */
	{ "-name guest=vm1,debug-threads=on -S -object {\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":\"/v/master-key.aes\"} "
	  "-machine pc-q35-10.0,usb=off,vmport=off,dump-guest-core=off,memory-backend=pc.ram,hpet=off,acpi=on -accel kvm -cpu host,migratable=on -m size=1048576k "
	  "-object {\"qom-type\":\"memory-backend-ram\",\"id\":\"pc.ram\",\"size\":1073741824} -overcommit mem-lock=off -smp 2,sockets=2,cores=1,threads=1 "
	  "-uuid 8e3fce5e-54c4-4bb5-92c4-d7a4cb2b4c5e -no-user-config -nodefaults -chardev socket,id=charmonitor,fd=36,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control "
	  "-rtc base=utc,driftfix=slew -no-shutdown -boot strict=on -device {\"driver\":\"pcie-root-port\",\"port\":16,\"chassis\":1,\"id\":\"pci.1\"} "
	  "-blockdev {\"driver\":\"file\",\"filename\":\"/var/lib/libvirt/images/vm1.qcow2\",\"node-name\":\"libvirt-1-storage\",\"read-only\":false} "
	  "-netdev {\"type\":\"tap\",\"fd\":\"38\",\"id\":\"hostnet0\"} -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -msg timestamp=on",
	  "-name guest=vm1,debug-threads=on -S -object {\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":\"/v/master-key.aes\"} "
	  "-machine pc-q35-10.0,usb=off,vmport=off,dump-guest-core=off,memory-backend=pc.ram,hpet=off,acpi=on -accel kvm -cpu host,migratable=on -m size=1048576k "
	  "-object {\"qom-type\":\"memory-backend-file\",\"id\":\"pc.ram\",\"size\":1073741824,\"mem-path\":\"/proc/self/fd/200\",\"share\":true} -overcommit mem-lock=off -smp 2,sockets=2,cores=1,threads=1 "
	  "-uuid 8e3fce5e-54c4-4bb5-92c4-d7a4cb2b4c5e -no-user-config -nodefaults -chardev socket,id=charmonitor,fd=36,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control "
	  "-rtc base=utc,driftfix=slew -no-shutdown -boot strict=on -device {\"driver\":\"pcie-root-port\",\"port\":16,\"chassis\":1,\"id\":\"pci.1\"} "
	  "-blockdev {\"driver\":\"file\",\"filename\":\"/var/lib/libvirt/images/vm1.qcow2\",\"node-name\":\"libvirt-1-storage\",\"read-only\":false} "
	  "-netdev {\"type\":\"tap\",\"fd\":\"38\",\"id\":\"hostnet0\"} -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -msg timestamp=on",
	  0, "'pc.ram': memory-backend-ram became" },
	{ "-machine q35 -m size=2097152k "
	  "-object {\"qom-type\":\"memory-backend-memfd\",\"id\":\"ram-node0\",\"hugetlb\":true,\"hugetlbsize\":2097152,\"share\":true,\"prealloc\":true,\"size\":1073741824,\"host-nodes\":[0],\"policy\":\"bind\"} -numa node,nodeid=0,cpus=0,memdev=ram-node0 "
	  "-object {\"qom-type\":\"memory-backend-memfd\",\"id\":\"ram-node1\",\"share\":true,\"x-use-canonical-path-for-ramblock-id\":false,\"size\":1073741824} -numa node,nodeid=1,cpus=1,memdev=ram-node1",
	  "-machine q35 -m size=2097152k "
	  "-object {\"qom-type\":\"memory-backend-file\",\"id\":\"ram-node0\",\"share\":true,\"prealloc\":true,\"size\":1073741824,\"host-nodes\":[0],\"policy\":\"bind\",\"mem-path\":\"/proc/self/fd/200\"} -numa node,nodeid=0,cpus=0,memdev=ram-node0 "
	  "-object {\"qom-type\":\"memory-backend-file\",\"id\":\"ram-node1\",\"share\":true,\"x-use-canonical-path-for-ramblock-id\":false,\"size\":1073741824,\"mem-path\":\"/proc/self/fd/201\"} -numa node,nodeid=1,cpus=1,memdev=ram-node1",
	  0, "'ram-node0': memory-backend-memfd became" },
};

static void command_lines_that_can_be_moved(void)
{
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		const struct good *g = &good[i];
		struct gw_cmdline_request req = plain;
		struct gw_cmdline c;
		char want[8192];
		size_t n;
		bool noted;

		/* -S follows what godwit adds, the monitors come last */
		n = strlen(g->out);
		snprintf(want, sizeof(want), "%s%s" MONITORS, g->out,
			 n ? " " : "");
		req.memory = g->memory;
		CHECK_OK(rewrite(g->in, &req, &c), &err);
		CHECK(!strcmp(join(&c), want));
		if (strcmp(join(&c), want))
			fprintf(stderr, " in  %s\n got %s\nwant %s\n", g->in,
				join(&c), want);
		noted = false;
		for (int k = 0; g->note && k < c.nnotes; k++)
			noted |= strstr(c.note[k], g->note) != NULL;
		CHECK(g->note ? noted : c.nnotes == 0);
		CHECK(c.argv[c.argc] == NULL);
		gw_cmdline_fini(&c);
	}
}

struct bad {
	const char *in, *why, *remedy; /* parts of the message */
};

static const struct bad bad[] = {
	/* RAM */
	{ "-m lots", "-m lots: the size cannot be read", "M or G" },
	{ "-object memory-backend-file,id=m,size=1G,mem-path=/x -machine memory-backend=m",
	  "'m' is a private mapping", "share=on" },
	{ "-object memory-backend-file,id=m,size=1G,mem-path=/dev/hugepages,share=off",
	  "private mapping", "--hugepages" },
	{ "-object {\"qom-type\":\"memory-backend-file\",\"id\":\"m\",\"size\":1,\"mem-path\":\"/x\",\"share\":false}",
	  "private mapping", "share=on" },
	{ "-object memory-backend-epc,id=e,size=64M", "memory-backend-epc",
	  "memory-backend-file,share=on" },
	{ "-object memory-backend-ram,id=m", "has no size", "size=" },
	{ "-object memory-backend-ram,size=1G", "needs an id", "id=NAME" },
	{ "-object memory-backend-ram,id=m,size=1G -object memory-backend-ram,id=m,size=1G",
	  "two memory backends with id 'm'", "its own" },
	{ "-machine memory-backend=m", "'m' is named but not", "-object" },
	{ "-numa node,memdev=m", "'m' is named but not", "-object" },
	{ "-mem-path /x -object memory-backend-ram,id=m,size=1G -machine memory-backend=m",
	  "-mem-path /x and the memory backend 'm'", "leave -mem-path out" },
	{ "-readconfig a.cfg", "how much RAM", "--memory" },
	/* machines */
	{ "-machine none", "'none' cannot be shared", "another machine" },
	{ "-machine x-remote", "'x-remote' cannot be shared",
	  "another machine" },
	{ "-machine virt", "no machine type 'virt'", "-machine help" },
	{ "-machine q35,confidential-guest-support=sev0",
	  "confidential guest", "leave it out" },
	{ "-machine q35,memory-encryption=sev0", "confidential guest",
	  "leave it out" },
	{ "-object sev-guest,id=sev0,cbitpos=47,reduced-phys-bits=1",
	  "sev-guest: the memory of a confidential guest", "leave it out" },
	{ "-object {\"qom-type\":\"tdx-guest\",\"id\":\"tdx\"}",
	  "tdx-guest", "leave it out" },
	/* devices */
	{ "-device vhost-user-blk-pci,chardev=c", "vhost-user-blk-pci: another process",
	  "virtio-blk-pci" },
	{ "-device vhost-user-fs-pci,chardev=c", "vhost-user-fs-pci", "virtio" },
	{ "-device {\"driver\":\"vfio-pci\",\"host\":\"0000:01:00.0\"}",
	  "vfio-pci: it writes guest memory by DMA", "leave it out" },
	{ "-device vfio-pci-nohotplug,host=1", "vfio-pci-nohotplug", "virtio" },
	{ "-device vhost-vdpa-device-pci,vhostdev=/dev/vhost-vdpa-0",
	  "vhost-vdpa-device-pci", "virtio" },
	{ "-device vhost-vsock-pci,guest-cid=3", "vhost-vsock-pci: the kernel",
	  "virtio-serial" },
	{ "-device driver=ivshmem-plain,memdev=m", "ivshmem-plain", "leave" },
	{ "-device virtio-mem-pci,memdev=m", "virtio-mem-pci", "pc-dimm" },
	{ "-netdev vhost-user,id=n,chardev=c", "-netdev vhost-user,id=n",
	  "tap,vhost=off" },
	{ "-netdev type=vhost-vdpa,id=n", "DMA", "tap,vhost=off" },
	{ "-netdev tap,id=n,vhost=on", "the kernel's vhost", "vhost=off" },
	{ "-netdev tap,id=n,vhost=on,vhostforce=on", "vhost", "vhost=off" },
	{ "-netdev {\"type\":\"tap\",\"fd\":\"3\",\"vhost\":true,\"vhostfd\":\"4\",\"id\":\"n\"}",
	  "the kernel's vhost", "vhost=off" },
	{ "-netdev tap,id=n,vhostfd=4", "the kernel's vhost", "vhost=off" },
	{ "-nic tap,vhost=on", "-nic tap,vhost=on: the kernel's", "vhost=off" },
	{ "-netdev passt,id=n,vhost-user=on", "another process", "stream" },
	{ "-drive file=nvme://0000:01:00.0/1,if=none", "DMA", "host_device" },
	{ "-drive file.driver=nvme,file.device=1,if=none", "DMA", "host_device" },
	{ "-blockdev {\"driver\":\"raw\",\"file\":{\"driver\":\"nvme\",\"device\":\"1\",\"namespace\":1}}",
	  "-blockdev nvme: it writes", "host_device" },
	{ "-blockdev driver=virtio-blk-vhost-vdpa,node-name=x,path=/dev/v",
	  "virtio-blk-vhost-vdpa", "host_device" },
	/* migration */
	{ "-incoming tcp:0:4444", "QEMU itself would take", "--incoming" },
	{ "-incoming {\"channel-type\":\"main\"}", "QEMU itself", "--incoming" },
};

static void command_lines_that_are_refused(void)
{
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct gw_cmdline c;
		int r = rewrite(bad[i].in, &plain, &c);

		CHECK(r == -ENOTSUP && c.nrefusals > 0);
		CHECK(strstr(err.msg, bad[i].why));
		CHECK(strstr(err.msg, bad[i].remedy));
		if (r != -ENOTSUP || !strstr(err.msg, bad[i].why) ||
		    !strstr(err.msg, bad[i].remedy))
			fprintf(stderr, "%s:\n  %s\n", bad[i].in, err.msg);
		gw_cmdline_fini(&c);
	}
}

static void a_port_for_the_agent_in_the_guest(void)
{
	static const char port[] =
		"-chardev socket,id=godwit-free-pages,path=/r/vm/free-pages.sock,server=on,wait=off "
		"-device virtio-serial%s,id=godwit-serial "
		"-device virtserialport,id=godwit-free-pages-port,bus=godwit-serial.0,chardev=godwit-free-pages,name=org.godwit.free-pages.0";
	static const char *const lines[][2] = {
		{ "-M q35", "" }, { "-M microvm", "-device" },
		{ "-device virtserialport,chardev=c,name=com.other", "" },
		/* the user has one already */
		{ "-device virtserialport,chardev=c,name=org.godwit.free-pages.0",
		  NULL },
	};
	struct gw_cmdline_request req = plain;
	char want[512];

	req.free_page_agent = true;
	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		struct gw_cmdline c;

		CHECK_OK(rewrite(lines[i][0], &req, &c), &err);
		snprintf(want, sizeof(want), port,
			 lines[i][1] ? lines[i][1] : "");
		CHECK(!strstr(join(&c), want) == !lines[i][1]);
		CHECK(lines[i][1] || !strstr(join(&c), "free-pages.sock"));
		gw_cmdline_fini(&c);
		CHECK_OK(rewrite(lines[i][0], &plain, &c), &err);
		CHECK(!strstr(join(&c), "free-pages.sock"));
		gw_cmdline_fini(&c);
	}
}

static void what_cannot_be_understood_is_usage(void)
{
	static const char *const lines[] = { "-m", "-object {\"qom-type\"",
					     "-device {}x" };

	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		struct gw_cmdline c;

		CHECK(rewrite(lines[i], &plain, &c) == -EINVAL);
		CHECK(err.fault == GW_FAULT_USAGE);
		gw_cmdline_fini(&c);
	}
}

static void all_refusals_are_kept(void)
{
	struct gw_cmdline c;

	CHECK(rewrite("-device vfio-pci -incoming tcp:x -netdev vhost-user",
		      &plain, &c) == -ENOTSUP);
	CHECK(c.nrefusals == 3);
	gw_cmdline_fini(&c);
}

static void an_old_qemu_is_refused(void)
{
	struct gw_qemu_probe old = probe;
	struct gw_cmdline_request req = plain;
	struct gw_cmdline c;

	req.probe = &old;
	old.major = 7;
	old.minor = 1;
	CHECK(rewrite("", &req, &c) == -ENOTSUP);
	CHECK(strstr(err.msg, "QEMU 7.1.0: godwit needs 7.2"));
	gw_cmdline_fini(&c);
	old.minor = 2;
	CHECK(rewrite("", &req, &c) == 0);
	gw_cmdline_fini(&c);
}

static void options_of_run(void)
{
	struct gw_cmdline_request req = plain;
	struct gw_cmdline c;

	req.incoming = true;
	req.hugepages = GW_HUGEPAGES_RESERVED;
	CHECK(rewrite("-m 1G", &req, &c) == 0);
	CHECK(!strcmp(join(&c), "-m 1G " RAM(G1) " -incoming defer -S " MONITORS));
	CHECK(c.incoming && c.nblocks == 1);
	CHECK(c.block[0].hugepages == GW_HUGEPAGES_RESERVED);
	CHECK(c.block[0].fd == 200 && c.block[0].size == GIB);
	CHECK(c.memory == GIB && !strcmp(c.machine, "pc-i440fx-10.0"));
	CHECK(!strcmp(c.env[0], "LD_PRELOAD=/a.so"));
	CHECK(!strcmp(c.env[1], "GODWIT_AGENT=/r/vm/agent.sock"));
	CHECK(strstr(c.monitors, "path = \"/r/vm/qmp.sock\""));
	CHECK(strstr(c.monitors, "path = \"/r/vm/status.sock\""));
	CHECK(strstr(c.monitors, "path = \"/r/vm/front.sock\""));
	CHECK(strstr(c.monitors, "path = \"/r/vm/guard.sock\""));
	gw_cmdline_fini(&c);
	req.incoming = false;
	CHECK(rewrite("-incoming defer", &req, &c) == 0 && c.incoming);
	gw_cmdline_fini(&c);

	req.agent = GW_AGENT_PLUGIN;
	req.agent_path = "/a,b.so";
	CHECK(rewrite("", &req, &c) == 0 && !c.env[0] && !c.env[1]);
	CHECK(strstr(join(&c),
		     "-plugin file=/a,,b.so,socket=/r/vm/agent.sock") ||
	      strstr(join(&c), "-plugin /a,,b.so,socket=/r/vm/agent.sock"));
	gw_cmdline_fini(&c);

	req = plain;
	req.preload = "/lib/other.so";
	CHECK(rewrite("", &req, &c) == 0);
	CHECK(!strcmp(c.env[0], "LD_PRELOAD=/a.so:/lib/other.so"));
	gw_cmdline_fini(&c);
	req.agent_path = "/my agent.so";
	CHECK(rewrite("", &req, &c) == -ENOTSUP);
	CHECK(strstr(err.msg, "--agent plugin"));
	gw_cmdline_fini(&c);
	req = plain;
	req.dir = "/a\"b";
	CHECK(rewrite("", &req, &c) == -ENOTSUP);
	CHECK(strstr(err.msg, "GODWIT_RUNTIME_DIR"));
	gw_cmdline_fini(&c);
}

static void memory_option_contradicts(void)
{
	struct gw_cmdline_request req = plain;
	struct gw_cmdline c;

	req.memory = 4096;
	CHECK(rewrite("", &req, &c) == -ENOTSUP);
	CHECK(strstr(err.msg, "write --memory 4096M"));
	gw_cmdline_fini(&c);
	req.memory = GIB;
	CHECK(rewrite("-object memory-backend-ram,id=m,size=1G -machine memory-backend=m",
		      &req, &c) == -ENOTSUP);
	CHECK(strstr(err.msg, "contradict each other"));
	gw_cmdline_fini(&c);
	CHECK(rewrite("-readconfig x", &req, &c) == 0);
	gw_cmdline_fini(&c);
}

static void transparent_huge_pages(void)
{
	struct gw_cmdline_request req = plain;
	struct gw_cmdline c;

	req.hugepages = GW_HUGEPAGES_TRANSPARENT;
	CHECK(rewrite("-m 1G", &req, &c) == 0);
	CHECK(c.block[0].hugepages == GW_HUGEPAGES_TRANSPARENT);
	CHECK(strstr(join(&c), ",share=on,align=2097152 "));
	gw_cmdline_fini(&c);
	CHECK(rewrite("-object memory-backend-ram,id=m,size=1G -machine memory-backend=m",
		      &req, &c) == 0);
	CHECK(c.block[0].hugepages == GW_HUGEPAGES_TRANSPARENT);
	CHECK(strstr(join(&c), "align=2097152"));
	gw_cmdline_fini(&c);
	CHECK(rewrite("-object {\"qom-type\":\"memory-backend-memfd\",\"id\":\"m\",\"size\":1073741824} -machine memory-backend=m",
		      &req, &c) == 0);
	CHECK(strstr(join(&c), "\"align\":2097152"));
	gw_cmdline_fini(&c);
	CHECK(rewrite("-mem-path /dev/hugepages -m 1G", &req, &c) == -ENOTSUP);
	CHECK(c.nrefusals == 1 && strstr(c.refusal[0], "leave one out"));
	gw_cmdline_fini(&c);
	/* What the command line says is kept. */
	CHECK(rewrite("-object memory-backend-memfd,id=m,size=1G,hugetlb=on -machine memory-backend=m",
		      &req, &c) == 0);
	CHECK(c.block[0].hugepages == GW_HUGEPAGES_RESERVED);
	gw_cmdline_fini(&c);
	/* Not asked for by name: where nothing else is said. */
	req.hugepages = GW_HUGEPAGES_AUTO;
	CHECK(rewrite("-m 1G", &req, &c) == 0);
	CHECK(c.block[0].hugepages == GW_HUGEPAGES_TRANSPARENT);
	gw_cmdline_fini(&c);
	CHECK(rewrite("-mem-path /dev/hugepages -m 1G", &req, &c) == 0);
	CHECK(c.block[0].hugepages == GW_HUGEPAGES_NONE);
	CHECK(!strstr(join(&c), "align"));
	gw_cmdline_fini(&c);
	CHECK(rewrite("-object memory-backend-memfd,id=m,size=1G,hugetlb=on -machine memory-backend=m",
		      &req, &c) == 0);
	CHECK(c.block[0].hugepages == GW_HUGEPAGES_RESERVED);
	gw_cmdline_fini(&c);
}

static void huge_pages_of_a_memfd(void)
{
	struct gw_cmdline c;

	CHECK(rewrite("-object memory-backend-memfd,id=m,size=1G,hugetlb=on,hugetlbsize=2M -machine memory-backend=m",
		      &plain, &c) == 0);
	CHECK(c.block[0].hugepages == GW_HUGEPAGES_RESERVED);
	CHECK(c.block[0].huge_size == 2 << 20);
	CHECK(!strstr(join(&c), "hugetlb"));
	gw_cmdline_fini(&c);
	CHECK(rewrite("-mem-path /dev/hugepages", &plain, &c) == 0);
	CHECK(!strcmp(c.block[0].like_path, "/dev/hugepages"));
	gw_cmdline_fini(&c);
}

/* --- option.h -------------------------------------------------------------- */

static void options_are_read_and_written_back(void)
{
	static const struct {
		const char *in, *key, *value, *out;
	} table[] = {
		{ "pc,accel=kvm", "type", "pc", "pc,accel=kvm" },
		{ "accel=kvm", "type", "", "accel=kvm" },
		{ "a,,b,x=1,,2", "type", "a,b", "a,,b,x=1,,2" },
		{ "pc,usb", "usb", "on", "pc,usb=on" },
		{ "x=a=b", "x", "a=b", "x=a=b" },
		{ "x=1,x=2", "x", "2", "x=2" },
		{ "x=", "x", "", "x=" },
		{ "", "x", "", "" },
		{ "{\"x\":true,\"y\":[1]}", "x", "on", "{\"x\":true,\"y\":[1]}" },
		{ "pc,x=\xff", "x", "\xff", "pc,x=\xff" },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
		struct gw_option o;
		char *text;

		CHECK_OK(gw_option_parse(&o, table[i].in, "type", &err), &err);
		CHECK(!strcmp(gw_option_get(&o, table[i].key),
			      table[i].value));
		text = gw_option_format(&o);
		CHECK(text && !strcmp(text, table[i].out));
		free(text);
		gw_option_fini(&o);
	}
}

static void sizes_as_qemu_reads_them(void)
{
	static const struct {
		const char *s;
		uint64_t unit, value; /* value 0: -EINVAL */
	} table[] = {
		{ "1", 1, 1 },	       { "1", 1 << 20, 1 << 20 },
		{ "4k", 1, 4096 },     { "1.5K", 1, 1536 },
		{ "2T", 1, 2ULL << 40 }, { "1P", 1, 1ULL << 50 },
		{ "7B", 1 << 20, 7 },  { "0x10", 1, 16 },
		{ "", 1, 0 },	       { "-1", 1, 0 },
		{ "1GB", 1, 0 },       { "1x", 1, 0 },
		{ "inf", 1, 0 },       { "99999999999999999999", 1, 0 },
		{ "0x", 1 << 20, 0 },  { "0xffffffffffffffff", 2, 0 },
		{ "9E", 1, 0 },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
		uint64_t n = 0;
		int r = gw_option_parse_size(table[i].s, table[i].unit, &n);

		CHECK(table[i].value ? !r && n == table[i].value :
				       r == -EINVAL);
	}
}

static void switches_are_known(void)
{
	CHECK(gw_cmdline_takes_argument("-daemonize") == 0);
	CHECK(gw_cmdline_takes_argument("--S") == 0);
	CHECK(gw_cmdline_takes_argument("-m") == 1);
	CHECK(gw_cmdline_takes_argument("disk.img") == -1);
	CHECK(gw_cmdline_takes_argument("-") == -1);
}

int main(void)
{
	RUN(command_lines_that_can_be_moved);
	RUN(command_lines_that_are_refused);
	RUN(a_port_for_the_agent_in_the_guest);
	RUN(what_cannot_be_understood_is_usage);
	RUN(all_refusals_are_kept);
	RUN(an_old_qemu_is_refused);
	RUN(options_of_run);
	RUN(memory_option_contradicts);
	RUN(transparent_huge_pages);
	RUN(huge_pages_of_a_memfd);
	RUN(options_are_read_and_written_back);
	RUN(sizes_as_qemu_reads_them);
	RUN(switches_are_known);
	return test_done();
}
