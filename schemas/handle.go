package schemas

// TensorHandle names a tensor in some process's device memory. Messages carry handles, never
// tensors: only the owner, the process Node, can dereference one. Generation changes when the
// memory is reused, so a stale handle is refused instead of reading another tensor.
type TensorHandle struct {
	_msgpack struct{} `msgpack:",as_array"`

	Node       NodeID   `json:"node"`
	Device     string   `json:"device"` // "cpu:0", "cuda:0"
	ID         uint64   `json:"id"`
	Generation uint32   `json:"generation"`
	DType      string   `json:"dtype"` // "f32", "bf16", …
	Shape      []int64  `json:"shape"`
	ByteOffset int64    `json:"byte_offset"`
	Owner      Instance `json:"owner"` // the actor that frees it
}
