package image

// CommandLine is the kernel command line that we recommend for guests with this ramdisk.
// Each word was kept because it makes the boot measurably shorter under TCG or quieter:
//
//	console=ttyS0 quiet        one console; printing to it costs 0.2 to 0.5 s under TCG
//	panic=1                    a panicked guest restarts, the host hears of it by pvpanic
//	nokaslr                    no search for a place (the PVH entry never does it)
//	no_timer_check tsc=reliable   no timer and clock source checks, both virtual
//	random.trust_cpu=on        entropy at once, nobody waits for the pool
//	cryptomgr.notests          no self-tests of built-in ciphers
//	rcupdate.rcu_expedited=1   module loading does not wait whole grace periods
//	8250.nr_uarts=1 i8042.*    no probing of ports that are not there
//	initcall_blacklist=...     no renaming of trace event constants for perf, 7 % of the boot
//	mitigations=off            one tenant per VM, and TCG gives no such side channel; a host with
//	                           KVM that runs other tenants' code in one guest may leave it out
const CommandLine = "console=ttyS0 quiet panic=1 mitigations=off nokaslr no_timer_check tsc=reliable" +
	" random.trust_cpu=on cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=1" +
	" i8042.noaux i8042.nokbd apparmor=0 audit=0 initcall_blacklist=trace_eval_init"
