// The arrows of ARCHITECTURE.md, held by dependency-cruiser: cli → vm → {relay, extract, snapshot} →
// {migration, adapters} → qemu-file → contract. Type-only imports count.

const GROUND = '^lib/(contract|util)/';

/** What each room may import of this package besides itself. */
const ROOMS = [
  { room: '^lib/(contract|util)/', mayImport: [] },
  { room: '^lib/qemu-file/', mayImport: [] },
  { room: '^lib/migration/', mayImport: ['^lib/qemu-file/'] },
  { room: '^adapters/', mayImport: ['^lib/qemu-file/'] },
  { room: '^lib/relay/', mayImport: ['^lib/(qemu-file|migration)/', '^adapters/'] },
  { room: '^lib/extract/', mayImport: ['^lib/(qemu-file|migration)/', '^adapters/'] },
  { room: '^lib/snapshot/', mayImport: ['^lib/(qemu-file|migration)/', '^adapters/'] },
  {
    room: '^lib/vm/',
    mayImport: ['^lib/(qemu-file|migration|relay|extract|snapshot)/', '^adapters/'],
  },
  {
    room: '^lib/cli/',
    mayImport: ['^lib/(qemu-file|migration|relay|extract|snapshot|vm)/', '^adapters/'],
  },
];

module.exports = {
  forbidden: [
    {
      name: 'no-circles',
      comment: 'Modules import each other in a circle: move what both need to a module of its own.',
      severity: 'error',
      from: { path: '^(lib|adapters)/' },
      to: { circular: true },
    },
    ...ROOMS.map(({ room, mayImport }) => ({
      name: `arrows-of-${room.replace(/[^a-z-]+/g, '-').replace(/^-|-$/g, '')}`,
      comment: 'This arrow points the wrong way: see ARCHITECTURE.md.',
      severity: 'error',
      from: { path: room },
      to: { path: '^(lib|adapters)/', pathNot: [GROUND, room, ...mayImport] },
    })),
    {
      name: 'an-index-is-for-users-of-the-package',
      comment: 'Import the module itself: an index puts all that it exports into the command.',
      severity: 'error',
      from: { path: '^(lib|adapters)/', pathNot: '/index[.]ts$' },
      to: { path: '/index[.]ts$', pathNot: 'node_modules' },
    },
    {
      name: 'format-is-the-ground-floor-of-migration',
      comment: 'Every room of lib/migration may import format; format imports none of them.',
      severity: 'error',
      from: { path: '^lib/migration/format/' },
      to: { path: '^lib/migration/', pathNot: '^lib/migration/format/' },
    },
    {
      name: 'only-its-tests-import-the-command',
      comment: 'lib/cli is a program, not a library.',
      severity: 'error',
      from: {
        path: '^(lib|adapters|bench|test)/',
        pathNot: '^(lib|test)/cli/|^test/(helpers|demo)/',
      },
      to: { path: '^lib/cli/' },
    },
    {
      name: 'nothing-imports-tests',
      severity: 'error',
      from: { path: '^(lib|adapters)/' },
      to: { path: '^(test|bench)/' },
    },
    {
      name: 'no-unlisted-packages',
      comment:
        'The package uses a dependency that its package.json does not list; the command is bundled.',
      severity: 'error',
      from: { path: '^(lib|adapters)/', pathNot: '^lib/cli/' },
      to: {
        dependencyTypes: ['npm-dev', 'npm-no-pkg', 'npm-unknown', 'unknown'],
        // An optional peer of the package, which is installed here for the tests.
        pathNot: 'node_modules/@aws-sdk/client-s3/',
      },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'types'] },
  },
};
