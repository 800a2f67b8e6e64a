package model

import "github.com/troupe-engine/troupe/gpu"

// memory allocates on a device and remembers what to free.
type memory struct {
	dev   gpu.Device
	owned []gpu.Tensor
}

func (m *memory) alloc(dtype gpu.DType, dims ...int) (gpu.Tensor, error) {
	return m.keep(m.dev.Alloc(dtype, dims...))
}

func (m *memory) pack(name string, dtype gpu.DType, n, k int, parts ...[]byte) (gpu.Tensor, error) {
	return m.keep(m.dev.PackMatrix(name, dtype, n, k, parts...))
}

func (m *memory) keep(t gpu.Tensor, err error) (gpu.Tensor, error) {
	if err == nil {
		m.owned = append(m.owned, t)
	}
	return t, err
}

// free releases t before the rest.
func (m *memory) free(t gpu.Tensor) {
	for i, o := range m.owned {
		if o.ID == t.ID {
			m.owned = append(m.owned[:i], m.owned[i+1:]...)
			break
		}
	}
	m.dev.Free(t)
}

// freeAll releases everything, last first.
func (m *memory) freeAll() {
	for i := len(m.owned) - 1; i >= 0; i-- {
		m.dev.Free(m.owned[i])
	}
	m.owned = nil
}
