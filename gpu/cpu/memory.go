package cpu

import "unsafe"

// mappedBytesMin is the size from which memory comes from the operating system instead of the
// Go heap: large weights would otherwise set the garbage collector's pace, and Free gives
// mapped memory back at once.
const mappedBytesMin = 1 << 20

// allocate returns zeroed, 64-byte aligned memory.
func allocate(bytes int) (raw []byte, mapped bool, err error) {
	if bytes >= mappedBytesMin {
		if raw, err = mapMemory(bytes); raw != nil || err != nil {
			return raw, true, err
		}
	}
	raw = make([]byte, bytes+63)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw))) & 63)
	return raw[skip : skip+bytes : skip+bytes], false, nil
}
