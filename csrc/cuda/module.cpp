// The extension module `_cuda`: one attribute, `table`, the CUDA engine in a capsule. Importing it
// needs no driver; the first launch does.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core/op_table.h"

extern "C" const fusestep::OpTable* fusestep_engine();

static PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                 "_cuda",
                                 "The CUDA engine of fusestep.",
                                 -1,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr};

PyMODINIT_FUNC PyInit__cuda() {
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  void* engine = const_cast<fusestep::OpTable*>(fusestep_engine());
  PyObject* table = PyCapsule_New(engine, "fusestep.OpTable", nullptr);
  if (table == nullptr || PyModule_AddObject(module, "table", table) < 0) {
    Py_XDECREF(table);
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
