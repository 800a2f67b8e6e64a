package cuda

import (
	"fmt"
	"path/filepath"
	"sync"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// cublasLt is NVIDIA's library of matrix products: addresses of the functions in use.
type cublasLt struct {
	version uint64 // 130002 is 13.0.2

	cublasLtGetVersion, cublasLtCreate, cublasLtMatmul, cublasLtMatmulAlgoGetHeuristic, cublasLtMatmulAlgoCheck uintptr
	cublasLtMatmulDescCreate, cublasLtMatmulDescSetAttribute, cublasLtMatrixLayoutCreate                        uintptr
	cublasLtMatmulPreferenceCreate, cublasLtMatmulPreferenceSetAttribute                                        uintptr
}

func (c *cublasLt) symbols() map[string]*uintptr {
	return map[string]*uintptr{
		"cublasLtGetVersion": &c.cublasLtGetVersion, "cublasLtCreate": &c.cublasLtCreate, "cublasLtMatmul": &c.cublasLtMatmul,
		"cublasLtMatmulAlgoGetHeuristic": &c.cublasLtMatmulAlgoGetHeuristic, "cublasLtMatmulAlgoCheck": &c.cublasLtMatmulAlgoCheck,
		"cublasLtMatmulDescCreate": &c.cublasLtMatmulDescCreate, "cublasLtMatmulDescSetAttribute": &c.cublasLtMatmulDescSetAttribute,
		"cublasLtMatrixLayoutCreate":     &c.cublasLtMatrixLayoutCreate,
		"cublasLtMatmulPreferenceCreate": &c.cublasLtMatmulPreferenceCreate, "cublasLtMatmulPreferenceSetAttribute": &c.cublasLtMatmulPreferenceSetAttribute,
	}
}

var loadedCublasLt struct {
	sync.Mutex
	cublasLt *cublasLt
	lib      Library
}

const cublasLtHint = "install the CUDA toolkit, set CUDA_HOME, or pip install nvidia-cublas; without it large products are slower"

// loadCublasLt loads the library. The Library says what was found also on error.
func loadCublasLt(s search) (*cublasLt, Library, error) {
	l := &loadedCublasLt
	l.Lock()
	defer l.Unlock()
	if l.cublasLt != nil {
		return l.cublasLt, l.lib, nil
	}
	var handle uintptr
	lib, ok := s.find("libcublasLt (CUDA's matrix products)", s.cublasLtPatterns(), func(path string) (err error) {
		handle, err = openLibrary(path)
		return err
	})
	if !ok {
		return nil, lib, lib.err(cublasLtHint)
	}
	c := &cublasLt{}
	if err := bindAll(handle, c.symbols()); err != nil {
		return nil, lib, fmt.Errorf("%w: %s: %w", gpu.ErrNotSupported, lib.Path, err)
	}
	c.version = uint64(uint32(call(c.cublasLtGetVersion)))
	l.cublasLt, l.lib = c, lib
	return c, lib, nil
}

// cublasLtPatterns are the places of cuBLASLt: the loader's path, a toolkit, pip's packages.
func (s search) cublasLtPatterns() []string {
	list := []string{"libcublasLt.so.13", "libcublasLt.so.12"}
	for _, name := range []string{"CUDA_HOME", "CUDA_PATH"} {
		if dir := s.env(name); dir != "" {
			list = append(list, filepath.Join(dir, "lib64/libcublasLt.so.1[23]"), filepath.Join(dir, "lib/libcublasLt.so.1[23]"))
		}
	}
	list = append(list, "/usr/local/cuda/lib64/libcublasLt.so.1[23]", "/usr/local/cuda-*/lib64/libcublasLt.so.1[23]")
	for _, packages := range s.pythonPackages() {
		list = append(list, filepath.Join(packages, "nvidia/cu13/lib/libcublasLt.so.13"), filepath.Join(packages, "nvidia/cublas/lib/libcublasLt.so.1[23]"))
	}
	return list
}

// cublasStatus names the statuses (cublasStatus_t in cublas_api.h) that a use like ours can meet.
var cublasStatus = map[int32]string{1: "not initialized", 3: "out of memory", 7: "invalid value", 8: "architecture mismatch",
	13: "execution failed", 14: "internal error", 15: "not supported"}

func (c *cublasLt) check(what string, status int32) error {
	if status == 0 {
		return nil
	}
	return fmt.Errorf("cuda: %s: %s (cublasStatus %d)", what, cublasStatus[status], status)
}

// Values of cublasLt.h and library_types.h.
const (
	cudaR32F, cudaR16BF, cudaR8E4M3       = 0, 14, 28
	cublasCompute32F                      = 68
	descTransposeA                        = 3  // CUBLASLT_MATMUL_DESC_TRANSA
	descScaleA                            = 17 // CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, and the next is B's
	descScaleModeA, descScaleModeB        = 31, 32
	scaleOuterVector                      = 3 // CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F
	preferenceWorkspaceBytes              = 1 // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
	cublasTranspose                 int32 = 1 // CUBLAS_OP_T
)

// algorithm is cublasLtMatmulAlgo_t: opaque, and valid for a library version and a GPU.
type algorithm [8]uint64

// heuristicResult is cublasLtMatmulHeuristicResult_t.
type heuristicResult struct {
	algorithm      algorithm
	workspaceBytes uint64
	status         int32
	waves          float32
	_              [4]int32
}

// layout describes a column-major matrix of ld elements from column to column.
func (c *cublasLt) layout(dtype int32, rows, columns, ld int) (handle uintptr, err error) {
	return handle, c.check("cublasLtMatrixLayoutCreate", call(c.cublasLtMatrixLayoutCreate, uintptr(unsafe.Pointer(&handle)),
		uintptr(dtype), uintptr(rows), uintptr(columns), uintptr(ld)))
}

// description is of a product with its first factor transposed, summed in float32.
func (c *cublasLt) description() (handle uintptr, err error) {
	if err := c.check("cublasLtMatmulDescCreate", call(c.cublasLtMatmulDescCreate, uintptr(unsafe.Pointer(&handle)), cublasCompute32F, cudaR32F)); err != nil {
		return 0, err
	}
	transpose := cublasTranspose
	return handle, c.check("cublasLtMatmulDescSetAttribute", call(c.cublasLtMatmulDescSetAttribute, handle, descTransposeA,
		uintptr(unsafe.Pointer(&transpose)), unsafe.Sizeof(transpose)))
}

// preference bounds the work space of algorithms.
func (c *cublasLt) preference(workspaceBytes uint64) (handle uintptr, err error) {
	if err := c.check("cublasLtMatmulPreferenceCreate", call(c.cublasLtMatmulPreferenceCreate, uintptr(unsafe.Pointer(&handle)))); err != nil {
		return 0, err
	}
	return handle, c.check("cublasLtMatmulPreferenceSetAttribute", call(c.cublasLtMatmulPreferenceSetAttribute, handle, preferenceWorkspaceBytes,
		uintptr(unsafe.Pointer(&workspaceBytes)), unsafe.Sizeof(workspaceBytes)))
}
