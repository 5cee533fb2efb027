package wire

import "encoding/binary"

// TransferRequest asks the leader of a cluster to hand leadership over. The answer is a
// [TransferResponse] or an [Error].
type TransferRequest struct {
	Log LogID
	// Node is the node that is to lead; 0: the one that has most of the log.
	Node uint16
}

// TransferResponse answers a [TransferRequest]: the handover has begun. It may fail all the
// same; the status says who leads.
type TransferResponse struct {
	Node uint16 // that is to lead
}

// ChainRequest asks for the chain up to the entry that holds an offset, as far as the log is
// committed. The answer is a [ChainResponse] or an [Error].
type ChainRequest struct {
	Log    LogID
	Offset uint64
}

// ChainResponse answers a [ChainRequest]. Two logs that give the same answer for an offset are
// the same from their beginning up to the end of that entry.
type ChainResponse struct {
	Index, Term uint64 // of the entry
	First, Next uint64 // its first offset, and the one behind it
	Chain       uint64 // a hash over it and all entries before
}

// RemoveRequest asks the leader of a cluster to remove a node from the membership. The answer
// is a [RemoveResponse] or an [Error].
type RemoveRequest struct {
	Log  LogID
	Node uint16
}

// RemoveResponse answers a [RemoveRequest]: the change is under way. The status says when it
// is complete.
type RemoveResponse struct{}

// AllowRequest asks the leader of a cluster to let a node join that no membership has had. The
// answer is an [AllowResponse] or an [Error].
type AllowRequest struct {
	Log  LogID
	Node uint16
}

// AllowResponse answers an [AllowRequest]: the node may join, as long as this leader leads.
type AllowResponse struct{}

// AppendTo appends the frame to dst and returns the longer slice.
func (m TransferRequest) AppendTo(dst []byte) []byte {
	return appendNodeRequest(dst, TypeTransferRequest, m.Log, m.Node)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m TransferResponse) AppendTo(dst []byte) []byte {
	return binary.LittleEndian.AppendUint16(appendHeader(dst, TypeTransferResponse, 2), m.Node)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m ChainRequest) AppendTo(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(appendHeader(dst, TypeChainRequest, 4+offsetSize), uint32(m.Log))
	return binary.LittleEndian.AppendUint64(dst, m.Offset)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m ChainResponse) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, TypeChainResponse, 5*8)
	for _, v := range [5]uint64{m.Index, m.Term, m.First, m.Next, m.Chain} {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	return dst
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m RemoveRequest) AppendTo(dst []byte) []byte {
	return appendNodeRequest(dst, TypeRemoveRequest, m.Log, m.Node)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (RemoveResponse) AppendTo(dst []byte) []byte { return appendHeader(dst, TypeRemoveResponse, 0) }

// AppendTo appends the frame to dst and returns the longer slice.
func (m AllowRequest) AppendTo(dst []byte) []byte {
	return appendNodeRequest(dst, TypeAllowRequest, m.Log, m.Node)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (AllowResponse) AppendTo(dst []byte) []byte { return appendHeader(dst, TypeAllowResponse, 0) }

// appendNodeRequest appends the frame of a request about a node.
func appendNodeRequest(dst []byte, t Type, log LogID, node uint16) []byte {
	dst = binary.LittleEndian.AppendUint32(appendHeader(dst, t, 4+2), uint32(log))
	return binary.LittleEndian.AppendUint16(dst, node)
}

// ParseTransferRequest parses the payload of a frame of [TypeTransferRequest]. The error is a
// [*MalformedError].
func ParseTransferRequest(payload []byte) (TransferRequest, error) {
	log, node, err := parseNodeRequest(TypeTransferRequest, payload)
	return TransferRequest{log, node}, err
}

// ParseTransferResponse parses the payload of a frame of [TypeTransferResponse]. The error is
// a [*MalformedError].
func ParseTransferResponse(payload []byte) (TransferResponse, error) {
	p := parser{t: TypeTransferResponse, b: payload}
	m := TransferResponse{p.node()}
	return m, p.end()
}

// ParseChainRequest parses the payload of a frame of [TypeChainRequest]. The error is a
// [*MalformedError].
func ParseChainRequest(payload []byte) (ChainRequest, error) {
	p := parser{t: TypeChainRequest, b: payload}
	m := ChainRequest{Log: LogID(p.uint32("log")), Offset: p.uint64("offset")}
	return m, p.end()
}

// ParseChainResponse parses the payload of a frame of [TypeChainResponse]. The error is a
// [*MalformedError].
func ParseChainResponse(payload []byte) (ChainResponse, error) {
	p := parser{t: TypeChainResponse, b: payload}
	m := ChainResponse{Index: p.uint64("index"), Term: p.uint64("term"), First: p.uint64("first offset"),
		Next: p.uint64("next offset"), Chain: p.uint64("chain")}
	return m, p.end()
}

// ParseRemoveRequest parses the payload of a frame of [TypeRemoveRequest]. The error is a
// [*MalformedError].
func ParseRemoveRequest(payload []byte) (RemoveRequest, error) {
	log, node, err := parseNodeRequest(TypeRemoveRequest, payload)
	return RemoveRequest{log, node}, err
}

// ParseRemoveResponse parses the payload of a frame of [TypeRemoveResponse], which is empty.
// The error is a [*MalformedError].
func ParseRemoveResponse(payload []byte) (RemoveResponse, error) {
	return RemoveResponse{}, checkEnd(TypeRemoveResponse, payload)
}

// ParseAllowRequest parses the payload of a frame of [TypeAllowRequest]. The error is a
// [*MalformedError].
func ParseAllowRequest(payload []byte) (AllowRequest, error) {
	log, node, err := parseNodeRequest(TypeAllowRequest, payload)
	return AllowRequest{log, node}, err
}

// ParseAllowResponse parses the payload of a frame of [TypeAllowResponse], which is empty. The
// error is a [*MalformedError].
func ParseAllowResponse(payload []byte) (AllowResponse, error) {
	return AllowResponse{}, checkEnd(TypeAllowResponse, payload)
}

// parseNodeRequest parses a request about a node.
func parseNodeRequest(t Type, payload []byte) (LogID, uint16, error) {
	p := parser{t: t, b: payload}
	log, node := LogID(p.uint32("log")), p.node()
	return log, node, p.end()
}

// node takes the number of a node.
func (p *parser) node() uint16 {
	if b := p.take(2, "node"); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}
