export * from './demo-config.ts';
export * from './demo.ts';
export * from './exposition-text.ts';
export * from './http.ts';
export * from './mesh.ts';
export * from './namespaces.ts';
export * from './network.ts';
export * from './service.ts';
