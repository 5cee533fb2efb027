package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"
	"github.com/zue-log/zue/replication"
	"github.com/zue-log/zue/server"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// envPrefix begins the names of environment variables that stand in for flags.
const envPrefix = "ZUE_"

// config is what the command line and the environment say.
type config struct {
	port    uint16
	dataDir string
	listen  string
	sync    string
	// cluster is nil for a server that stands alone.
	cluster    *membership
	secretFile string
	listenSet  bool     // by flag or environment
	warnings   []string // to be logged when it starts

	logFormat, logLevel string
	compression         string
	segmentSize         size
	retentionSize       size
	requestMemory       size
	scrubInterval       time.Duration
	scrubRate           size
	catchUpRate         size

	storage storage.Options
	server  server.Options
}

// size is a flag of so many bytes: "1048576", "1MiB", "1MB".
type size int64

func (s *size) String() string {
	if *s == 0 {
		return "0"
	}
	return strings.ReplaceAll(humanize.IBytes(uint64(*s)), " ", "")
}

func (*size) Type() string { return "size" }

func (s *size) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is no size, such as 64MiB", text)
	}
	*s = size(n)
	return nil
}

// flags declares the flags.
func (c *config) flags(f *pflag.FlagSet) {
	c.segmentSize, c.requestMemory = storage.DefaultSegmentBytes, server.DefaultMaxRequestBytes
	f.StringVar(&c.listen, "listen", "", "`address` to listen on; 0.0.0.0 is all (default 127.0.0.1; in a cluster the node's in cluster.conf)")
	f.StringVar(&c.secretFile, "cluster-secret-file", "", "`file` with the secret by which the nodes of a cluster know one another")
	f.StringVar(&c.sync, "sync", "always", "when appends are durable: always (before they are answered), interval=<duration>, never")
	f.Var(&c.segmentSize, "segment-size", "size of a segment file, 16KiB to 1GiB; one is allocated ahead")
	f.DurationVar(&c.storage.SegmentAge, "segment-age", 0, "begin a segment when the last one is so old, so that retention can remove that; 0: never")
	f.IntVar(&c.storage.IndexInterval, "index-interval", storage.DefaultIndexInterval, "bytes of log for each index point, 64 to 1048576: more make reads slower, less the index larger")
	f.Var(&c.retentionSize, "retention-size", "remove the oldest segments when all are larger than this; 0: never")
	f.DurationVar(&c.storage.RetentionAge, "retention-age", 0, "remove segments whose newest record is so old; 0: never")
	f.StringVar(&c.compression, "compression", "none", "of records that clients append one by one: none, gzip, snappy, lz4, zstd")
	f.IntVar(&c.server.MaxConnections, "max-connections", server.DefaultMaxConnections, "clients at once; further ones are told so and hung up on")
	f.Var(&c.requestMemory, "max-request-memory", fmt.Sprintf("memory for requests of more than 64 KiB that are being received, and answers as long that are not sent from a mapped file; %d bytes or more", server.MinRequestBytes))
	c.scrubRate, c.catchUpRate = server.DefaultScrubRate, replication.DefaultCatchUpRate
	f.DurationVar(&c.scrubInterval, "scrub-interval", server.DefaultScrubInterval, "time between two scrubs, which read the whole log and report damage, and in a cluster have it mended; 0: never")
	f.Var(&c.scrubRate, "scrub-rate", "bytes that a scrub reads in a second")
	f.Var(&c.catchUpRate, "catch-up-rate", "bytes that a leader sends in a second to nodes that are behind, while there are appends; a quarter more than is appended, if that is more")
	f.StringVar(&c.logFormat, "log-format", "text", "of the lines on standard error: text, json")
	f.StringVar(&c.logLevel, "log-level", "info", "least important lines to write: debug, info, warn, error")
}

// environment sets the flags that the command line does not from the environment. A
// variable that is empty counts as not set. It returns what is wrong with any, and for each
// flag where its value is from, as an error is to name it.
func environment(f *pflag.FlagSet) (from map[string]string, err error) {
	var errs []error
	from = map[string]string{}
	f.VisitAll(func(flag *pflag.Flag) {
		from[flag.Name] = "--" + flag.Name
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		text := os.Getenv(name)
		if text == "" || flag.Changed || flag.Name == "help" || flag.Name == "version" {
			return
		}
		from[flag.Name] = name + " in the environment"
		if err := flag.Value.Set(text); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", from[flag.Name], plainly(flag, text, err)))
		}
	})
	return from, errors.Join(errs...)
}

// plainly says what is wrong with a flag's text, where strconv and time speak of their own
// functions.
func plainly(flag *pflag.Flag, text string, err error) error {
	switch flag.Value.Type() {
	case "int":
		if errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("%q is out of range", text)
		}
		return fmt.Errorf("%q is no number", text)
	case "duration":
		return fmt.Errorf("%q is no duration, such as 24h", text)
	}
	return err
}

// flagError is what the command line's parser says, in the words of plainly.
func flagError(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	flag := invalid.GetFlag()
	return fmt.Errorf("--%s: %w", flag.Name, plainly(flag, invalid.GetValue(), invalid.Unwrap()))
}

// read takes the arguments and makes options of all that was said. It reports every fault
// at once.
func (c *config) read(args []string, flags *pflag.FlagSet, stderr io.Writer) error {
	from, err := environment(flags)
	errs := []error{err}
	fault := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", from[flag], err))
		}
	}
	port, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil {
		errs = append(errs, fmt.Errorf("port %q is not a number from 0 to 65535", args[0]))
	}
	if args[1] == "" {
		errs = append(errs, errors.New("the data directory's name is empty"))
	}
	c.listenSet = flags.Changed("listen") || c.listen != ""
	if c.listen == "" {
		if c.listenSet { // net.Listen takes it for all
			fault("listen", errors.New("the address is empty; 0.0.0.0 is all"))
		}
		c.listen = defaultListen
	}
	c.port, c.dataDir = uint16(port), fromCaller(args[1])
	c.storage.Sync, err = storage.ParseSyncPolicy(c.sync)
	fault("sync", err)
	c.storage.Compression, err = batch.ParseCodec(c.compression)
	fault("compression", err)
	var level slog.Level
	if level.UnmarshalText([]byte(c.logLevel)) != nil {
		fault("log-level", fmt.Errorf("%q is none of debug, info, warn, error", c.logLevel))
	}
	logger, err := newLogger(c.logFormat, level, stderr)
	fault("log-format", err)
	c.storage.SegmentBytes, c.storage.RetentionBytes = int64(c.segmentSize), int64(c.retentionSize)
	c.storage.Logger, c.server.Logger = logger, logger
	c.server.ScrubInterval, c.server.ScrubRate = c.scrubInterval, int64(c.scrubRate)
	switch {
	case c.scrubInterval < 0:
		fault("scrub-interval", fmt.Errorf("%v is less than 0", c.scrubInterval))
	case c.scrubInterval == 0:
		c.server.ScrubInterval = -1 // never
	}
	c.server.MaxRequestBytes, c.server.Sync = int64(c.requestMemory), c.storage.Sync
	errs = append(errs, c.storage.Validate(), c.server.Validate())
	if len(args) == 4 {
		errs = append(errs, c.readCluster(args[2], args[3]))
	}
	if len(args) != 4 && flags.Changed("catch-up-rate") {
		fault("catch-up-rate", errors.New("only a cluster's node has others catch up: give it a cluster.conf and a node number"))
	}
	switch {
	case c.secretFile == "" && flags.Changed("cluster-secret-file"):
		fault("cluster-secret-file", errors.New("the file's name is empty"))
	case c.secretFile != "" && len(args) != 4:
		fault("cluster-secret-file", errors.New("only a cluster's node has a secret: give it a cluster.conf and a node number"))
	case c.secretFile != "" && c.cluster != nil:
		fault("cluster-secret-file", c.readSecret())
	}
	if c.cluster != nil {
		c.warnHosts()
	}
	return errors.Join(errs...)
}

// defaultListen is where a server that stands alone listens.
const defaultListen = "127.0.0.1"

// newLogger makes the program's logger.
func newLogger(format string, level slog.Level, w io.Writer) (*slog.Logger, error) {
	o := slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &o)), nil
	}
	return nil, fmt.Errorf("%q is none of text, json", format)
}
