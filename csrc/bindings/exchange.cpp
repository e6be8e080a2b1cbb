#include "bindings/exchange.h"

namespace fusestep {

const DLPackExchangeAPI* exchange_api_of(pybind11::handle object) {
  // The attribute sits on the type, and looking it up costs more than using it: remember the last few
  // types (Tensor, Parameter, ndarray, …). Types are kept alive so that an address is never reused.
  struct Entry {
    PyTypeObject* type;
    const DLPackExchangeAPI* api;
  };
  static Entry cache[4] = {};
  static unsigned next = 0;
  PyTypeObject* type = Py_TYPE(object.ptr());
  for (const Entry& entry : cache) {
    if (entry.type == type) return entry.api;
  }
  const DLPackExchangeAPI* api = nullptr;
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  if (capsule != nullptr) {
    api = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);
  }
  PyErr_Clear();
  while (api != nullptr && api->header.version.major != DLPACK_MAJOR_VERSION) {
    api = reinterpret_cast<const DLPackExchangeAPI*>(api->header.prev_api);
  }
  if (api != nullptr && api->dltensor_from_py_object_no_sync == nullptr) api = nullptr;
  Entry& entry = cache[next++ % 4];
  Py_INCREF(type);
  Py_XDECREF(entry.type);
  entry = {type, api};
  return api;
}

}  // namespace fusestep
