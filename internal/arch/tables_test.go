package arch

// Floors, from the ground up. A room may use what is below its floor, and the rooms inside
// itself; neighbours on the same floor only if the table says why.
const (
	nouns      = iota + 1 // plain values
	contracts             // formats and skeletons that two rooms agree on
	deciders              // pure functions of (now, snapshot) to a plan
	engines               // make the kernel, a disk, QEMU, systemd, etcd do something
	conductors            // order among engines, and the front of an interface
	mains                 // flags and wiring
)

// rooms places every directory that holds Go. A directory that is not here is in the room
// of its nearest ancestor that is.
var rooms = map[string]int{
	"internal/cloud":     nouns,
	"internal/pattern":   contracts,
	"internal/heap":      contracts, // how much garbage a daemon may leave lying about
	"internal/enrol":     contracts, // how a machine that is no guest registers
	"internal/bundle":    contracts,
	"internal/delta":     deciders,
	"internal/document":  deciders,
	"internal/reconcile": contracts,
	"internal/service":   contracts,
	"internal/shim":      contracts,
	"internal/door":      contracts, // what control and agent say to each other through the host's door
	"internal/origin":    contracts, // whose connection it is that imds carries to control
	"internal/ticket":    contracts, // how imds asks control for a token in an instance's name
	"internal/handover":  engines,
	"internal/store":     engines,
	"internal/block":     engines,
	"internal/userdata":  deciders,
	"internal/lease":     deciders,  // what a DHCP client says and hears
	"internal/printable": contracts, // words of strangers
	"internal/fetch":     engines,   // HTTP for guests
	"internal/network":   engines,   // of a guest: by netlink and DHCP
	"internal/provision": conductors,
	"internal/arch":      mains,
	"internal/nstest":    mains,
	"internal/storetest": mains,
	"internal/vmtest":    mains,

	"control":           mains,
	"control/sigv4":     deciders,
	"control/ipam":      deciders,
	"control/placement": deciders,
	"control/scaling":   deciders,
	"control/recovery":  deciders,
	"control/identity":  deciders,
	"control/config":    engines,    // ichiro.toml
	"control/notify":    engines,    // sends to addresses that users name
	"control/objects":   engines,    // writes into the object store in callers' names
	"control/ledger":    engines,    // who has which address, in transactions
	"control/etcd":      conductors, // opens the store and keeps it: over internal/store
	"control/iam":       conductors, // IAM's engine over the store
	"control/cluster":   conductors,
	"control/api":       conductors,

	"agent":           mains,
	"agent/metadata":  deciders,
	"agent/wire":      contracts, // frames and sockets of all that configures guests
	"agent/notice":    contracts, // what the kernel tells: for all that must know of strangers' changes
	"agent/link":      engines,
	"agent/firewall":  engines,
	"agent/dhcp":      engines,
	"agent/dhcp6":     engines,
	"agent/unit":      engines,
	"agent/neighbour": engines,
	"agent/presence":  engines,
	"agent/eni":       conductors,
	"agent/host":      conductors,
	"agent/door":      conductors,

	"hypervisor-shim":         mains,
	"hypervisor-shim/machine": deciders,
	"hypervisor-shim/jail":    engines,
	"hypervisor-shim/qemu":    engines,
	"hypervisor-shim/qmp":     engines,
	"hypervisor-shim/console": engines,
	"hypervisor-shim/control": conductors,

	"imds":          mains,
	"imds/tree":     deciders,
	"imds/server":   conductors,
	"imds/dns":      conductors,
	"imds/dns/zone": deciders,
	"imds/ntp":      conductors,
	"imds/relay":    conductors,

	"runcmd":             mains,
	"runcmd/wire":        contracts, // frames, and the door of the websocket library
	"runcmd/fault":       contracts, // points at which the tests of crashes strike; empty in what is built as usual
	"runcmd/journal":     engines,
	"runcmd/spool":       engines,
	"runcmd/keeper":      engines,
	"runcmd/act":         engines, // the process of a step
	"runcmd/runner":      conductors,
	"runcmd/link":        conductors,
	"runcmd/netconf":     conductors, // the guest's network, kept as its metadata says
	"runcmd/gateway":     mains,
	"runcmd/mgs":         conductors, // the stock agent's calls and its control channel
	"runcmd/mgs/frame":   contracts,  // the binary message of the stock agent and plugin
	"runcmd/machine":     conductors, // the agent in a machine that is no guest
	"runcmd/serial":      conductors, // the agent's second way to its gateway: a port of a virtio console
	"runcmd/stream":      engines,    // the bytes of one session, over as many websockets as it takes
	"runcmd/session":     conductors, // shells and ports in the guest
	"runcmd/client":      mains,
	"runcmd/mgs/mux":     engines,
	"runcmd/mgs/channel": deciders,   // one end of a data channel, without I/O
	"runcmd/mgs/client":  conductors, // our own client of a data channel
	"runcmd/mgs/bridge":  conductors, // the stock agent's sessions, seen as ours

	"initramfs":         mains,
	"initramfs/init":    mains,
	"initramfs/codec":   engines,
	"initramfs/bzimage": engines,
	"initramfs/image":   conductors,
	"initramfs/boot":    conductors,
	"initramfs/tools":   conductors,

	"deploy":         mains,
	"deploy/doctor":  engines,
	"deploy/process": engines,
	"deploy/host":    conductors,
	"deploy/bench":   mains,
	"deploy/count":   mains,
	"deploy/e2e":     mains,
	"deploy/walk":    mains,
	"deploy/s3":      mains,
}

// neighbours may use each other although they are on the same floor.
var neighbours = map[string]string{
	"control/api -> control/cluster":               "an action that changes what is wished wakes the planner",
	"control/ledger -> internal/store":             "an address and its owner change in one transaction of the store",
	"control/api -> control/iam":                   "IAM's and STS's actions are answered by its engine",
	"agent/host -> agent/eni":                      "the host applies all interfaces before it starts a unit",
	"hypervisor-shim/qemu -> hypervisor-shim/jail": "QEMU is started inside the jail",
	"runcmd/link -> runcmd/runner":                 "what arrives on the link is handed to the runner",
	"runcmd/mgs -> runcmd/mgs/bridge":              "an order that arrives for the stock agent is handed to what keeps its sessions",
	"internal/document -> internal/userdata":       "a document may be written in YAML",
	"initramfs/bzimage -> initramfs/codec":         "a kernel image is compressed",
}

// pure are the packages that must be deciders in fact: see TestDecidersArePure.
var pure = []string{
	"internal/cloud", "internal/document", "internal/userdata/config", "internal/userdata/jinja", "internal/userdata/yaml",
	"control/sigv4", "control/ipam", "control/placement", "control/identity", "control/scaling", "control/recovery",
	"agent/metadata", "hypervisor-shim/machine", "imds/tree", "imds/dns/zone",
}

// testOnly are the packages that no program may contain.
var testOnly = []string{"internal/arch", "internal/nstest", "internal/vmtest", "internal/storetest"}

// library is a module that go.mod requires directly: why, and the only directories of
// programs that import it. Tests may import it anywhere. One building has one door.
type library struct {
	why   string
	doors []string // and what lies below them
	wide  bool     // it is a vocabulary, not a subsystem: anybody may speak it
	tool  bool     // run or read, but not imported
}

var libraries = map[string]library{
	"github.com/BurntSushi/toml":                          {why: "ichiro.toml, with unknown fields refused", doors: []string{"control/config"}},
	"github.com/aws/aws-sdk-go":                           {why: "its API models are the input of the generator of shapes", tool: true},
	"github.com/aws/aws-sdk-go-v2":                        {why: "the stock client, as the other side in tests and in the bench", doors: []string{"deploy/bench"}},
	"github.com/aws/aws-sdk-go-v2/credentials":            {why: "the stock client, as the other side in tests and in the bench", doors: []string{"deploy/bench"}},
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds":       {why: "the stock client, as the other side in tests"},
	"github.com/aws/aws-sdk-go-v2/service/ec2":            {why: "the stock client, as the other side in tests and in the bench", doors: []string{"deploy/bench"}},
	"github.com/aws/aws-sdk-go-v2/service/s3":             {why: "the types in which versitygw's backend is asked", doors: []string{"deploy/s3"}},
	"github.com/aws/aws-sdk-go-v2/service/iam":            {why: "the stock client, as the other side in tests"},
	"github.com/aws/aws-sdk-go-v2/service/resourcegroups": {why: "the stock client, as the other side in tests"},
	"github.com/aws/aws-sdk-go-v2/service/ssm":            {why: "the stock client, as the other side in tests and in the bench", doors: []string{"deploy/bench"}},
	"github.com/aws/aws-sdk-go-v2/service/sts":            {why: "the stock client, as the other side in tests"},
	"github.com/aws/smithy-go":                            {why: "the stock client's errors, in tests and in the bench", doors: []string{"deploy/bench"}},
	"github.com/coreos/go-systemd/v22":                    {why: "sd_notify, the watchdog, is stderr the journal; units over D-Bus", doors: []string{"internal/service", "agent/unit"}},
	"github.com/fsnotify/fsnotify":                        {why: "inotify for the instance directories", doors: []string{"internal/bundle"}},
	"github.com/golang-jwt/jwt/v5":                        {why: "JSON web tokens, as a relying party's library in tests"},
	"github.com/google/nftables":                          {why: "nf_tables by netlink: one batch, no parsing of nft's text", doors: []string{"agent/firewall"}},
	"github.com/gorilla/websocket":                        {why: "the websocket of Run Command", doors: []string{"runcmd/wire"}},
	"github.com/insomniacslk/dhcp":                        {why: "DHCP's messages, as a second witness in tests"},
	"github.com/klauspost/compress":                       {why: "zstd of kernels and ramdisks", doors: []string{"initramfs/codec", "internal/block"}},
	"github.com/landlock-lsm/go-landlock":                 {why: "the file system rights of QEMU and of the object store", doors: []string{"hypervisor-shim/jail", "deploy/s3"}},
	"github.com/miekg/dns":                                {why: "DNS messages", doors: []string{"imds/dns"}},
	"github.com/mdlayher/netlink":                         {why: "the transport that google/nftables exposes", doors: []string{"agent/firewall"}},
	"github.com/pierrec/lz4/v4":                           {why: "lz4 of kernels and ramdisks", doors: []string{"initramfs/codec"}},
	"github.com/prometheus/client_golang":                 {why: "metrics: declared where the fact is", wide: true},
	"github.com/smallstep/pkcs7":                          {why: "the PKCS#7 signature of identity documents", doors: []string{"control/identity"}},
	"github.com/u-root/u-root":                            {why: "the small image's commands, and cpio", doors: []string{"initramfs"}},
	"github.com/versity/versitygw":                        {why: "IAM's engine; the S3 front", doors: []string{"control/iam", "deploy/s3"}},
	"github.com/vishvananda/netlink":                      {why: "links, routes, neighbours", doors: []string{"agent/link", "internal/vmtest", "internal/network"}},
	"github.com/vishvananda/netns":                        {why: "network namespaces", doors: []string{"agent/link"}},
	"github.com/xtaci/smux":                               {why: "many connections over one session: what the stock plugin speaks, and a serial port carries", doors: []string{"runcmd/mgs/mux"}},
	"golang.org/x/term":                                   {why: "the raw terminal of ichiro shell", doors: []string{"runcmd/client"}},
	"go.etcd.io/etcd/api/v3":                              {why: "the store's wire types and errors", doors: []string{"internal/store", "control/etcd"}},
	"go.etcd.io/etcd/client/v3":                           {why: "the store's client", doors: []string{"internal/store", "control/etcd"}},
	"go.etcd.io/etcd/client/pkg/v3":                       {why: "TLS files of etcd's own client, in tests", doors: []string{"internal/store", "control/etcd"}},
	"go.etcd.io/etcd/server/v3":                           {why: "the store's server, embedded", doors: []string{"control/etcd", "internal/storetest"}},
	"go.uber.org/zap":                                     {why: "etcd logs through it: bridged to slog, or silenced", doors: []string{"control/etcd", "internal/store"}},
	"go.yaml.in/yaml/v3":                                  {why: "YAML's syntax; what a word means is ours, for the library follows 1.2 and cloud-config 1.1", doors: []string{"internal/userdata/yaml"}},
	"golang.org/x/crypto":                                 {why: "OpenSSH's form of public keys", doors: []string{"control/api/ec2", "control/iam", "internal/userdata"}},
	"golang.org/x/sync":                                   {why: "errgroup", wide: true},
	"golang.org/x/sys":                                    {why: "system calls that package syscall lacks", wide: true},
	"golang.org/x/tools":                                  {why: "txtar, the form of the walkthrough's scripts"},
	"google.golang.org/grpc":                              {why: "etcd's transport: connection parameters and status codes", doors: []string{"internal/store", "internal/storetest", "control/etcd"}},
	"mvdan.cc/sh/v3":                                      {why: "the small image's shell", doors: []string{"initramfs/tools"}},
	"pgregory.net/rapid":                                  {why: "property tests"},
	"rsc.io/script":                                       {why: "the language of the walkthrough's scripts"},
}
