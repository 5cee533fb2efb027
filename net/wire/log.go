package wire

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// ProtocolVersion is the version of the protocol that this package speaks. It is that of
// the messages beyond the original five, which have none and never change.
const ProtocolVersion = 1

// Limits of the messages beyond the original five, in bytes.
const (
	// MaxLargeFrame is the greatest value of the length field of a frame of
	// [TypeBatchAppendRequest] or [TypeFetchResponse]: 64 KiB more than that of others,
	// so that an entry made of what filled a frame can be handed on.
	MaxLargeFrame = MaxFrame + 64<<10

	// MaxBatchBody is the longest body of a [BatchAppendRequest].
	MaxBatchBody = MaxFrame

	// MaxName is the longest text of [HelloRequest.Client] and [HelloResponse.Server].
	MaxName = 255

	// MaxCredentials is the longest [HelloRequest.Credentials].
	MaxCredentials = 4 << 10
)

// LogID is the number of a log on a server. Zero is the only one today.
type LogID uint32

// Features are what a peer can do beyond [ProtocolVersion], one bit each. None is
// defined yet; unknown ones are to be ignored.
type Features uint64

// HelloRequest may be the first message of a client. A client that says nothing is as
// good; one that does learns what the server speaks before it sends it what it does not.
type HelloRequest struct {
	Version  uint32 // the highest that the client speaks
	Features Features
	// Client is the client's name, for the server's log: UTF-8, at most [MaxName] bytes.
	Client string
	// Credentials say who the client is, at most [MaxCredentials] bytes; nil: it does
	// not say.
	Credentials []byte
}

// HelloResponse answers a [HelloRequest].
type HelloResponse struct {
	Version  uint32 // that is spoken from here on: the lower of both
	Features Features
	Server   string // the server's name and version, at most [MaxName] bytes
	// MaxFrame is the greatest length of a frame that the server takes.
	MaxFrame uint32
}

// BatchAppendRequest asks for an encoded record batch to be appended, whole or not at
// all. The answer is a [BatchAppendResponse] or an [Error].
type BatchAppendRequest struct {
	Log LogID
	// Conditional says that the batch is to be appended only if the log ends at
	// EndOffset; otherwise the answer is [CodeOffsetMismatch].
	Conditional bool
	EndOffset   uint64 // 0 unless Conditional
	// Checksum is the CRC-32C (Castagnoli) of Body.
	Checksum uint32
	// Body is a Kafka record batch of magic 2, from its attributes on, at most
	// [MaxBatchBody] bytes.
	Body []byte
}

// BatchAppendResponse is the receipt for a batch: it is in the log, as durable as the
// server's settings promise.
type BatchAppendResponse struct {
	First uint64 // the offset of the batch's first record
	Count uint32 // how many offsets it takes up
	Term  uint64 // in which it was appended; 1 on a server without replication
	// Copies is on how many disks it is; 0 when the server answers before it is on any.
	Copies uint32
	// Duplicate says that it was in the log already: a producer has sent it again.
	Duplicate bool
}

// FetchRequest asks for whole entries from an offset on. The answer is a
// [FetchResponse] or an [Error].
type FetchRequest struct {
	Log    LogID
	Offset uint64
	// MaxBytes bounds the entries of the answer, which has one at least if there is any.
	MaxBytes uint32
	// MinBytes is how many bytes of entries there must be before the server answers, for
	// at most WaitMillis.
	MinBytes   uint32
	WaitMillis uint32
}

// FetchResponse has entries as they stand in a segment file of the server: storage's
// FORMAT.md has their layout. The first may begin before the offset asked for, if its
// batch holds that; there is none if the log ends there.
type FetchResponse struct {
	First uint64 // the first offset that the log keeps
	End   uint64 // the log's end offset
	// Format is the version of the segment's format.
	Format uint8
	// Seed is what the segment's header stores for its seed, with which the checksums of
	// the entries' headers begin.
	Seed    uint32
	Entries []byte
}

// OffsetForTimeRequest asks for the first offset whose record has at least a timestamp.
// The answer is an [OffsetForTimeResponse] or an [Error].
type OffsetForTimeRequest struct {
	Log       LogID
	Timestamp int64 // milliseconds since the Unix epoch
}

// OffsetForTimeResponse answers an [OffsetForTimeRequest].
type OffsetForTimeResponse struct {
	Offset uint64 // the end offset if there is no such record
}

// StatusRequest asks how a server and its log are. The answer is a [StatusResponse] or
// an [Error].
type StatusRequest struct{ Log LogID }

// StatusResponse answers a [StatusRequest].
type StatusResponse struct {
	JSON []byte // an object; PROTOCOL.md has its fields
}

// BarrierRequest asks for an end offset that is not stale: all that was acknowledged
// before the request lies below it. The answer is a [BarrierResponse] or an [Error].
type BarrierRequest struct{ Log LogID }

// BarrierResponse answers a [BarrierRequest].
type BarrierResponse struct{ End uint64 }

// ProducerRequest asks for a producer's id, which no other producer of the log has. The
// answer is a [ProducerResponse] or an [Error].
type ProducerRequest struct{ Log LogID }

// ProducerResponse answers a [ProducerRequest]: with this id and epoch in the headers of
// its batches, and sequence numbers from 0, a producer can send a batch again without
// having it in the log twice.
type ProducerResponse struct {
	ID    int64
	Epoch uint16
}

// Sizes of the fixed parts of payloads.
const (
	batchAppendFixed = 4 + 1 + 8 + 4 + lengthSize
	fetchFixed       = 8 + 8 + 1 + 4 + lengthSize
)

// AppendTo appends the frame to dst and returns the longer slice. A name or credentials
// that are too long are cut, at the end of a character.
func (m HelloRequest) AppendTo(dst []byte) []byte {
	name := truncateText(m.Client, MaxName)
	credentials := m.Credentials[:min(len(m.Credentials), MaxCredentials)]
	dst = appendHeader(dst, TypeHelloRequest, 4+8+2*lengthSize+len(name)+len(credentials))
	dst = binary.LittleEndian.AppendUint32(dst, m.Version)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(m.Features))
	dst = appendBytes(dst, []byte(name))
	if m.Credentials == nil {
		return binary.LittleEndian.AppendUint32(dst, ^uint32(0))
	}
	return appendBytes(dst, credentials)
}

// AppendTo appends the frame to dst and returns the longer slice. A name that is too
// long is cut at the end of a character.
func (m HelloResponse) AppendTo(dst []byte) []byte {
	name := truncateText(m.Server, MaxName)
	dst = appendHeader(dst, TypeHelloResponse, 4+8+lengthSize+len(name)+4)
	dst = binary.LittleEndian.AppendUint32(dst, m.Version)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(m.Features))
	dst = appendBytes(dst, []byte(name))
	return binary.LittleEndian.AppendUint32(dst, m.MaxFrame)
}

// Size returns the number of bytes that the frame takes on the wire.
func (m BatchAppendRequest) Size() int {
	return HeaderSize + typeSize + batchAppendFixed + len(m.Body)
}

// AppendTo appends the frame to dst and returns the longer slice. A body that does not
// fit in a frame is refused with a [*BatchSizeError], and dst is returned as it was.
func (m BatchAppendRequest) AppendTo(dst []byte) ([]byte, error) {
	if len(m.Body) > MaxBatchBody {
		return dst, &BatchSizeError{Size: len(m.Body)}
	}
	dst = slices.Grow(dst, m.Size())
	dst = appendHeader(dst, TypeBatchAppendRequest, batchAppendFixed+len(m.Body))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(m.Log))
	dst = appendBool(dst, m.Conditional)
	dst = binary.LittleEndian.AppendUint64(dst, m.EndOffset)
	dst = binary.LittleEndian.AppendUint32(dst, m.Checksum)
	return appendBytes(dst, m.Body), nil
}

// BatchSizeError says that a batch does not fit in a frame.
type BatchSizeError struct {
	Size int // of the body, in bytes, beyond [MaxBatchBody]
}

// Error implements error.
func (e *BatchSizeError) Error() string {
	return fmt.Sprintf("batch of %d bytes does not fit in a frame: at most %d", e.Size, MaxBatchBody)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m BatchAppendResponse) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, TypeBatchAppendResponse, 8+4+8+4+1)
	dst = binary.LittleEndian.AppendUint64(dst, m.First)
	dst = binary.LittleEndian.AppendUint32(dst, m.Count)
	dst = binary.LittleEndian.AppendUint64(dst, m.Term)
	dst = binary.LittleEndian.AppendUint32(dst, m.Copies)
	return appendBool(dst, m.Duplicate)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m FetchRequest) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, TypeFetchRequest, 4+8+4+4+4)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(m.Log))
	dst = binary.LittleEndian.AppendUint64(dst, m.Offset)
	dst = binary.LittleEndian.AppendUint32(dst, m.MaxBytes)
	dst = binary.LittleEndian.AppendUint32(dst, m.MinBytes)
	return binary.LittleEndian.AppendUint32(dst, m.WaitMillis)
}

// MaxFetchEntries is the longest [FetchResponse.Entries], in bytes.
const MaxFetchEntries = MaxLargeFrame - typeSize - fetchFixed

// AppendTo appends the frame to dst and returns the longer slice.
func (m FetchResponse) AppendTo(dst []byte) []byte {
	dst = slices.Grow(dst, HeaderSize+typeSize+fetchFixed+len(m.Entries))
	return append(m.AppendHeaderTo(dst), m.Entries...)
}

// AppendHeaderTo appends all of the frame but the entries, which are to be sent behind
// it, and returns the longer slice: so they need not be copied. There are at most
// [MaxFetchEntries] bytes of them.
func (m FetchResponse) AppendHeaderTo(dst []byte) []byte {
	dst = appendHeader(dst, TypeFetchResponse, fetchFixed+len(m.Entries))
	dst = binary.LittleEndian.AppendUint64(dst, m.First)
	dst = binary.LittleEndian.AppendUint64(dst, m.End)
	dst = append(dst, m.Format)
	dst = binary.LittleEndian.AppendUint32(dst, m.Seed)
	return binary.LittleEndian.AppendUint32(dst, uint32(len(m.Entries)))
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m OffsetForTimeRequest) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, TypeOffsetForTimeRequest, 4+8)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(m.Log))
	return binary.LittleEndian.AppendUint64(dst, uint64(m.Timestamp))
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m OffsetForTimeResponse) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, TypeOffsetForTimeResponse, offsetSize)
	return binary.LittleEndian.AppendUint64(dst, m.Offset)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m StatusRequest) AppendTo(dst []byte) []byte {
	return binary.LittleEndian.AppendUint32(appendHeader(dst, TypeStatusRequest, 4), uint32(m.Log))
}

// AppendTo appends the frame to dst and returns the longer slice. The JSON must fit in a
// frame.
func (m StatusResponse) AppendTo(dst []byte) []byte {
	return appendBytes(appendHeader(dst, TypeStatusResponse, lengthSize+len(m.JSON)), m.JSON)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m BarrierRequest) AppendTo(dst []byte) []byte {
	return binary.LittleEndian.AppendUint32(appendHeader(dst, TypeBarrierRequest, 4), uint32(m.Log))
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m BarrierResponse) AppendTo(dst []byte) []byte {
	return binary.LittleEndian.AppendUint64(appendHeader(dst, TypeBarrierResponse, offsetSize), m.End)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m ProducerRequest) AppendTo(dst []byte) []byte {
	return binary.LittleEndian.AppendUint32(appendHeader(dst, TypeProducerRequest, 4), uint32(m.Log))
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m ProducerResponse) AppendTo(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(appendHeader(dst, TypeProducerResponse, 8+2), uint64(m.ID))
	return binary.LittleEndian.AppendUint16(dst, m.Epoch)
}

// ParseProducerRequest parses the payload of a frame of [TypeProducerRequest]. The error is
// a [*MalformedError].
func ParseProducerRequest(payload []byte) (ProducerRequest, error) {
	p := parser{t: TypeProducerRequest, b: payload}
	m := ProducerRequest{LogID(p.uint32("log"))}
	return m, p.end()
}

// ParseProducerResponse parses the payload of a frame of [TypeProducerResponse]. The error
// is a [*MalformedError].
func ParseProducerResponse(payload []byte) (ProducerResponse, error) {
	p := parser{t: TypeProducerResponse, b: payload}
	m := ProducerResponse{ID: int64(p.uint64("id"))}
	if b := p.take(2, "epoch"); b != nil {
		m.Epoch = binary.LittleEndian.Uint16(b)
	}
	return m, p.end()
}

// ParseHelloRequest parses the payload of a frame of [TypeHelloRequest]. Credentials are
// a part of payload. The error is a [*MalformedError].
func ParseHelloRequest(payload []byte) (HelloRequest, error) {
	p := parser{t: TypeHelloRequest, b: payload}
	m := HelloRequest{Version: p.uint32("version"), Features: Features(p.uint64("features")), Client: p.name("client")}
	m.Credentials = p.bytes("credentials", MaxCredentials, true)
	return m, p.end()
}

// ParseHelloResponse parses the payload of a frame of [TypeHelloResponse]. The error is a
// [*MalformedError].
func ParseHelloResponse(payload []byte) (HelloResponse, error) {
	p := parser{t: TypeHelloResponse, b: payload}
	m := HelloResponse{Version: p.uint32("version"), Features: Features(p.uint64("features")), Server: p.name("server"),
		MaxFrame: p.uint32("greatest frame")}
	return m, p.end()
}

// ParseBatchAppendRequest parses the payload of a frame of [TypeBatchAppendRequest]. Body
// is a part of payload, and not looked into. The error is a [*MalformedError].
func ParseBatchAppendRequest(payload []byte) (BatchAppendRequest, error) {
	p := parser{t: TypeBatchAppendRequest, b: payload}
	m := BatchAppendRequest{Log: LogID(p.uint32("log")), Conditional: p.bool("conditional"), EndOffset: p.uint64("end offset"),
		Checksum: p.uint32("checksum"), Body: p.bytes("body", MaxBatchBody, false)}
	if p.err == nil && !m.Conditional && m.EndOffset != 0 {
		p.fail("an end offset, but no condition")
	}
	return m, p.end()
}

// ParseBatchAppendResponse parses the payload of a frame of [TypeBatchAppendResponse].
// The error is a [*MalformedError].
func ParseBatchAppendResponse(payload []byte) (BatchAppendResponse, error) {
	p := parser{t: TypeBatchAppendResponse, b: payload}
	m := BatchAppendResponse{First: p.uint64("first offset"), Count: p.uint32("count"), Term: p.uint64("term"),
		Copies: p.uint32("copies"), Duplicate: p.bool("duplicate")}
	return m, p.end()
}

// ParseFetchRequest parses the payload of a frame of [TypeFetchRequest]. The error is a
// [*MalformedError].
func ParseFetchRequest(payload []byte) (FetchRequest, error) {
	p := parser{t: TypeFetchRequest, b: payload}
	m := FetchRequest{Log: LogID(p.uint32("log")), Offset: p.uint64("offset"), MaxBytes: p.uint32("most bytes"),
		MinBytes: p.uint32("least bytes"), WaitMillis: p.uint32("wait")}
	return m, p.end()
}

// ParseFetchResponse parses the payload of a frame of [TypeFetchResponse]. Entries are a
// part of payload, and not looked into. The error is a [*MalformedError].
func ParseFetchResponse(payload []byte) (FetchResponse, error) {
	p := parser{t: TypeFetchResponse, b: payload}
	m := FetchResponse{First: p.uint64("first offset"), End: p.uint64("end offset"), Format: p.uint8("format"),
		Seed: p.uint32("seed"), Entries: p.bytes("entries", MaxFetchEntries, false)}
	return m, p.end()
}

// ParseOffsetForTimeRequest parses the payload of a frame of [TypeOffsetForTimeRequest].
// The error is a [*MalformedError].
func ParseOffsetForTimeRequest(payload []byte) (OffsetForTimeRequest, error) {
	p := parser{t: TypeOffsetForTimeRequest, b: payload}
	m := OffsetForTimeRequest{Log: LogID(p.uint32("log")), Timestamp: int64(p.uint64("timestamp"))}
	return m, p.end()
}

// ParseOffsetForTimeResponse parses the payload of a frame of
// [TypeOffsetForTimeResponse]. The error is a [*MalformedError].
func ParseOffsetForTimeResponse(payload []byte) (OffsetForTimeResponse, error) {
	offset, err := parseOffset(TypeOffsetForTimeResponse, payload)
	return OffsetForTimeResponse{offset}, err
}

// ParseStatusRequest parses the payload of a frame of [TypeStatusRequest]. The error is a
// [*MalformedError].
func ParseStatusRequest(payload []byte) (StatusRequest, error) {
	p := parser{t: TypeStatusRequest, b: payload}
	m := StatusRequest{LogID(p.uint32("log"))}
	return m, p.end()
}

// ParseStatusResponse parses the payload of a frame of [TypeStatusResponse]. JSON is a
// part of payload, and not looked into. The error is a [*MalformedError].
func ParseStatusResponse(payload []byte) (StatusResponse, error) {
	p := parser{t: TypeStatusResponse, b: payload}
	m := StatusResponse{p.bytes("status", MaxFrame, false)}
	return m, p.end()
}

// ParseBarrierRequest parses the payload of a frame of [TypeBarrierRequest]. The error is
// a [*MalformedError].
func ParseBarrierRequest(payload []byte) (BarrierRequest, error) {
	p := parser{t: TypeBarrierRequest, b: payload}
	m := BarrierRequest{LogID(p.uint32("log"))}
	return m, p.end()
}

// ParseBarrierResponse parses the payload of a frame of [TypeBarrierResponse]. The error
// is a [*MalformedError].
func ParseBarrierResponse(payload []byte) (BarrierResponse, error) {
	offset, err := parseOffset(TypeBarrierResponse, payload)
	return BarrierResponse{offset}, err
}

// parser takes the fields of a payload, one after the other. Its first error stays, and
// all fields after it are zero.
type parser struct {
	t   Type
	b   []byte
	err error
}

func (p *parser) fail(reason string) {
	if p.err == nil {
		p.err = malformed(p.t, reason)
	}
	p.b = nil
}

// take takes n bytes; nil if there are not so many.
func (p *parser) take(n int, field string) []byte {
	if p.err == nil && len(p.b) < n {
		p.fail("payload ends in the " + field)
	}
	if p.err != nil {
		return nil
	}
	b := p.b[:n:n]
	p.b = p.b[n:]
	return b
}

func (p *parser) uint8(field string) uint8 {
	if b := p.take(1, field); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) uint32(field string) uint32 {
	if b := p.take(4, field); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (p *parser) uint64(field string) uint64 {
	if b := p.take(8, field); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (p *parser) bool(field string) bool {
	v := p.uint8(field)
	if v > 1 {
		p.fail(fmt.Sprintf("%s is %d, not 0 or 1", field, v))
	}
	return v == 1
}

// bytes takes a length and so many bytes, at most limit.
func (p *parser) bytes(field string, limit int, nullable bool) []byte {
	if p.err != nil {
		return nil
	}
	b, rest, err := takeBytes(p.t, field, p.b, nullable)
	if err == nil && len(b) > limit {
		err = malformed(p.t, fmt.Sprintf("%s of length %d: at most %d", field, len(b), limit))
	}
	if err != nil {
		p.err, p.b = err, nil
		return nil
	}
	p.b = rest
	return b
}

// name takes a text. Unlike an error's, it must be as encoding it makes it.
func (p *parser) name(field string) string {
	s := string(p.bytes(field, MaxName, false))
	if p.err == nil && strings.ToValidUTF8(s, "") != s {
		p.fail(field + " is not UTF-8")
	}
	return s
}

func (p *parser) end() error {
	if p.err != nil {
		return p.err
	}
	return checkEnd(p.t, p.b)
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(dst, uint32(len(b))), b...)
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}
